"""The quickstart's model: an SVC on the iris data, written with joblib, always the same."""

import os
import sys
from pathlib import Path

import joblib
from sklearn import datasets, svm


def main(path: Path) -> None:
    """Train and write; a reader never sees half a file."""
    iris = datasets.load_iris()
    model = svm.SVC(gamma="scale").fit(iris.data, iris.target)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    joblib.dump(model, unfinished)
    os.replace(unfinished, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
