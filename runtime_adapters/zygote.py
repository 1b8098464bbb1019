"""The zygote: a process that has everything imported and has run nothing; hosts are its copies.

The daemon execs it once (`python -m runtime_adapters.zygote FD CONFIG`), because a daemon with an
event loop and gRPC's threads must not fork itself, and because importing scikit-learn takes a
second while forking takes milliseconds and shares the libraries' memory. One thread, asserted
before every fork; no event loop; no gRPC; it never runs a model (libgomp hangs after a fork once it
was used); the collector's heap is frozen so that hosts do not copy it.

Control socket: SEQPACKET, one JSON object a message, descriptors beside it.

    daemon -> zygote   {"host": id, "data_limit_bytes": n, "options": {...}} + link, journal, output
    zygote -> daemon   {"ready": facts} once, or {"failed": why}
    keeper -> daemon   {"host": id, "pid": n} + pidfd, or {"host": id, "error": why}
                       {"host": id, "status": wait status} when the host has ended
    zygote -> daemon   {"host": id, "keeper_lost": true} when a keeper was killed

A closed control socket means that the daemon is gone: the zygote exits, keepers end their hosts.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from runtime_adapters import host, keeper
from runtime_adapters.keeper import Birth, Children, HostMain

MESSAGE_BYTES = 1 << 16


class Zygote:
    """Serves spawn requests until the daemon is gone."""

    def __init__(self, control: socket.socket, main: HostMain) -> None:
        self._control = control
        self._main = main
        self._keepers: dict[int, int] = {}  # pid -> host

    def serve(self) -> None:
        """Fork a host for each request. Returns in the zygote only, when the daemon is gone."""
        self._children = Children()
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._children.fd, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._children.fd in ready:
                self._reap()
            if self._control.fileno() in ready and not self._spawn():
                return

    def _spawn(self) -> bool:
        try:
            message, fds, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 3)
        except ConnectionResetError:  # the daemon went with our messages unread
            return False
        if not message:
            return False
        request = json.loads(message)
        link, journal, output = fds
        birth = Birth(
            request["host"],
            link,
            journal,
            output,
            request["data_limit_bytes"],
            request["options"],
        )
        try:
            self._fork(birth)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _fork(self, birth: Birth) -> None:
        threads = os.listdir("/proc/self/task")
        if len(threads) != 1:
            raise RuntimeError(f"the zygote has {len(threads)} threads, so it must not fork")
        try:
            pid = os.fork()
        except OSError as error:
            self._say({"host": birth.host, "error": f"cannot fork: {error.strerror}"})
            return
        if pid:
            self._keepers[pid] = birth.host
            return
        status = 70
        try:
            self._children.forget()
            keeper.keep(self._control, birth, self._main)
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)

    def _reap(self) -> None:
        for pid, status in self._children.ended():
            host = self._keepers.pop(pid, None)
            if host is not None and status != 0:
                self._say({"host": host, "keeper_lost": True})
        for pid in keeper.living_children():  # what a lost keeper's host has left behind
            if pid not in self._keepers:
                os.kill(pid, signal.SIGKILL)

    def _say(self, message: dict[str, Any]) -> None:
        with suppress(OSError):  # the daemon is gone: the next poll says so
            self._control.send(json.dumps(message).encode())


def main() -> None:
    """Import, freeze, serve."""
    keeper.name_process("mm-zygote")
    keeper.prctl(keeper.PR_SET_PDEATHSIG, signal.SIGKILL)  # an import may never come back
    keeper.prctl(keeper.PR_SET_CHILD_SUBREAPER, 1)  # what a killed keeper stood over comes to us
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    config = json.loads(sys.argv[2])
    try:
        program = host.prepare(config["runtimes"], config["options"], config["threads"])
        facts = program.facts()
    except ValueError as error:  # what the operator named cannot be had, and the text says why
        control.send(json.dumps({"failed": str(error)}).encode())
        sys.exit(1)
    except Exception as error:
        control.send(json.dumps({"failed": f"{type(error).__name__}: {error}"}).encode())
        raise
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"ready": facts}).encode())
    Zygote(control, program.run).serve()


if __name__ == "__main__":
    main()
