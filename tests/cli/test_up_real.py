"""`modelmesh up` with real daemons and a real etcd: one fleet, whose registrations survive it."""

import signal
from contextlib import suppress
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
    found = set[int]()
    with suppress(OSError):  # it has just ended
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found |= {int(child), *children(int(child))}
    return found


def answers(up: Run, pod: int) -> bool:
    """Whether it does; one that does not know the model may find etcd standing still."""
    port = up.file["pods"][pod]["rest"]
    asked = modelmesh(
        *("infer", "m", "--v2", "--file", "-", "--rest", f"127.0.0.1:{port}"), stdin=REQUEST
    )
    assert asked.status == 0 or "UNAVAILABLE" in asked.err, asked.err
    return asked.status == 0


def register(*arguments: str) -> bool:
    """Whether it is registered and loaded: not, while etcd stands still."""
    said = modelmesh("models", "register", *arguments)
    assert said.status == 0 or "UNAVAILABLE" in said.err, said.err
    return said.status == 0


@pytest.mark.timeout(400)
@pytest.mark.skipif(not programs(), reason="there is no etcd on this machine")
def test_a_real_fleet(tmp_path: Path) -> None:
    folder, base = tmp_path / "d", free_base()
    shared = {"MM_SHARED_HOSTS": "1"}
    with fleet(folder, base=base, command=command(folder, base), environment=shared) as up:
        at = f"127.0.0.1:{up.ready()['pods'][0]['grpc']}"
        (tmp_path / "m").write_text("{}")
        model = ("m", "--type", "dummy", "--path", str(tmp_path / "m"), "--sync")
        until(lambda: register(*model, "--address", at))
        until(lambda: answers(up, 1))  # the other one takes requests for it too
        until(lambda: "1 models loaded" in up.said)
        everybody = children(up.process.pid)
        assert len(everybody) > 3, "hosts are there"
        assert up.stop() == 0
        until(lambda: not any(alive(pid) for pid in everybody))
    with fleet(folder, base=base, command=command(folder, base), environment=shared) as again:
        again.ready()
        until(lambda: answers(again, 1))  # it is still registered
        everybody = children(again.process.pid)
        again.process.send_signal(signal.SIGKILL)
        again.process.wait(60)
        until(lambda: not any(alive(pid) for pid in everybody))
