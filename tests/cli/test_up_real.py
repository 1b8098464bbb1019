"""`modelmesh up` with real daemons and a real etcd: one fleet, whose registrations survive it."""

import signal
from pathlib import Path

import pytest

from modelmesh.cli.etcd_process import programs
from tests.cli.fleets import Run, alive, fleet, free_base, until
from tests.cli.processes import modelmesh

REQUEST = '{"inputs":[{"name":"x","shape":[1],"datatype":"FP64","data":[1]}]}'


def command(folder: Path, base: int) -> tuple[str, ...]:
    flags = f"--pods 2 --base-port {base} --capacity {100 << 20}"
    return ("modelmesh", "up", "--data-dir", str(folder), *flags.split())


def children(pid: int) -> set[int]:
    """All that descends from it: hosts and their keepers too."""
    found = set()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found |= {int(child), *children(int(child))}
    return found


def ask(up: Run, pod: int) -> int:
    port = up.file["pods"][pod]["rest"]
    return modelmesh(
        *("infer", "m", "--v2", "--file", "-", "--rest", f"127.0.0.1:{port}"), stdin=REQUEST
    ).status


@pytest.mark.skipif(not programs(), reason="there is no etcd on this machine")
def test_a_real_fleet(tmp_path: Path) -> None:
    folder, base = tmp_path / "d", free_base()
    shared = {"MM_SHARED_HOSTS": "1"}
    with fleet(folder, base=base, command=command(folder, base), environment=shared) as up:
        at = f"127.0.0.1:{up.ready()['pods'][0]['grpc']}"
        (tmp_path / "m").write_text("{}")
        model = ("m", "--type", "dummy", "--path", str(tmp_path / "m"), "--sync")
        said = modelmesh("models", "register", *model, "--address", at)
        assert said.status == 0, said.err
        assert ask(up, 1) == 0, "the other one takes requests for it too"
        until(lambda: "1 models loaded" in up.said)
        everybody = children(up.process.pid)
        assert len(everybody) > 3, "hosts are there"
        assert up.stop() == 0
        until(lambda: not any(alive(pid) for pid in everybody))
    with fleet(folder, base=base, command=command(folder, base), environment=shared) as again:
        again.ready()
        assert ask(again, 1) == 0, "it is still registered"
        everybody = children(again.process.pid)
        again.process.send_signal(signal.SIGKILL)
        again.process.wait(60)
        until(lambda: not any(alive(pid) for pid in everybody))
