"""Compile protos/*.proto into modelmesh/pb/ (committed; `--check` fails when they drift)."""

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
    names = sorted(p.name for p in PROTOS.glob("*.proto"))
    arguments = ["protoc", f"-Imodelmesh/pb={PROTOS}"]
    arguments += [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(arguments + [f"modelmesh/pb/{name}" for name in names]) != 0:
        raise SystemExit("protoc failed")


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        compile_into(Path(scratch))
        fresh = sorted((Path(scratch) / "modelmesh" / "pb").iterdir())
        stale = [f.name for f in fresh if not _same(f, TARGET / f.name)]
        if "--check" in sys.argv:
            if stale:
                raise SystemExit(f"modelmesh/pb is stale, run `make protos`: {', '.join(stale)}")
            return
        for file in fresh:
            (TARGET / file.name).write_bytes(file.read_bytes())


def _same(fresh: Path, committed: Path) -> bool:
    return committed.exists() and filecmp.cmp(fresh, committed, shallow=False)


if __name__ == "__main__":
    main()
