"""The parent of the tests' hosts: imports the runtimes once, forks a host for each request.

`python -m tests.adapters.host_main CONTROL_FD`. A request is the host's options with its link and
its journal page beside it, the answer its pid; an empty object asks how the last host ended.
"""

import json
import mmap
import os
import socket
import sys
from typing import Any

from modelmesh.wire.journal import SIZE_BYTES
from runtime_adapters import host


def main(control_fd: str) -> None:
    program = host.prepare("tests.adapters.hostile:HostileRuntime", {})
    pid = 0
    with socket.socket(fileno=int(control_fd)) as control:
        while True:
            message, fds, _, _ = socket.recv_fds(control, 1 << 16, 2)
            if not message:
                return
            if fds:
                pid = fork(program, json.loads(message), *fds)
            told = pid if fds else os.waitpid(pid, 0)[1]
            control.send(json.dumps(told).encode())


def fork(program: host.HostProgram, options: dict[str, Any], link_fd: int, page_fd: int) -> int:
    pid = os.fork()
    if pid == 0:
        page = mmap.mmap(page_fd, SIZE_BYTES)
        program.run(socket.socket(fileno=link_fd), memoryview(page), options)
        os._exit(0)
    os.close(link_fd)
    os.close(page_fd)
    return pid


if __name__ == "__main__":
    main(sys.argv[1])
