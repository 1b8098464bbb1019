"""Compile protos/**/*.proto into modelmesh/pb/ (committed; `--check` fails when they drift).

A file's place under protos/ is its place under modelmesh/pb/, and its name in the descriptor pool:
no other package's `rpc.proto` can be taken for ours.
"""

import filecmp
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
TARGET = ROOT / "modelmesh" / "pb"


def compile_into(out: Path) -> None:
    """Write <name>_pb2.py, .pyi and _pb2_grpc.py for every proto, importable as modelmesh.pb."""
    names = sorted(str(file.relative_to(PROTOS)) for file in PROTOS.rglob("*.proto"))
    arguments = ["protoc", f"-Imodelmesh/pb={PROTOS}"]
    arguments += [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(arguments + [f"modelmesh/pb/{name}" for name in names]) != 0:
        raise SystemExit("protoc failed")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        compile_into(Path(scratch))
        top = Path(scratch) / "modelmesh" / "pb"
        fresh = sorted(file.relative_to(top) for file in top.rglob("*") if file.is_file())
        stale = [str(file) for file in fresh if not _same(top / file, TARGET / file)]
        if "--check" in sys.argv:
            if stale:
                raise SystemExit(f"modelmesh/pb is stale, run `make protos`: {', '.join(stale)}")
            return
        for file in fresh:
            (TARGET / file).parent.mkdir(exist_ok=True)
            (TARGET / file).write_bytes((top / file).read_bytes())


def _same(fresh: Path, committed: Path) -> bool:
    return committed.exists() and filecmp.cmp(fresh, committed, shallow=False)


if __name__ == "__main__":
    main()
