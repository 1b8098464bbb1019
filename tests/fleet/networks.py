"""Network namespaces: every daemon behind an interface of its own, which can go dead.

Needs root. A bridge joins them with this machine; what is unplugged or sent to a wrong hardware
address is gone without a word, as on a real network: no proxy in between that accepts anything.
"""

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_BOUND_S: Final = 20.0
# Nobody has this hardware address.
_NOWHERE: Final = "02:00:00:00:00:fe"

_numbers = itertools.count(os.getpid() % 200 * 50)


def why_not() -> str:
    """Why there can be no namespaces here; "" if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"mmtry{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("-n", name, "link", "add", "x", "type", "veth", "peer", "name", "y")
        _ip("netns", "exec", name, "true")
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or error
        return f"no network namespaces here: {said}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=_BOUND_S)
    return ""


class Networks:
    """A bridge and the namespaces behind it. Made by `networks`."""

    def __init__(self) -> None:
        number = next(_numbers) % 10_000
        self._id = f"mm{number}"
        self._net = f"10.{100 + number // 250 % 100}.{number % 250}"
        self._bridge = f"{self._id}br"
        self._hosts: dict[str, int] = {}
        self.here = f"{self._net}.1"
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.here}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def add(self, name: str) -> tuple[str, list[str]]:
        """A new one: its address, and the command that runs another one inside."""
        self._hosts[name] = len(self._hosts) + 2
        space, outer = f"{self._id}{name}", f"{self._id}v{name}"
        _ip("netns", "add", space)
        _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
        _ip("link", "set", outer, "master", self._bridge, "up")
        _ip("-n", space, "addr", "add", f"{self.address(name)}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", space, "link", "set", device, "up")
        return self.address(name), ["ip", "netns", "exec", space]

    def address(self, name: str) -> str:
        return f"{self._net}.{self._hosts[name]}"

    def unplug(self, name: str) -> None:
        _ip("link", "set", f"{self._id}v{name}", "down")

    def plug(self, name: str) -> None:
        _ip("link", "set", f"{self._id}v{name}", "up")

    def lose(self, sender: str, receiver: str) -> None:
        """What the sender sends to the receiver is lost; not what comes back."""
        self._neighbour(sender, receiver, "replace", "lladdr", _NOWHERE, "nud", "permanent")

    def find(self, sender: str, receiver: str) -> None:
        """It arrives again."""
        self._neighbour(sender, receiver, "del")

    def _neighbour(self, sender: str, receiver: str, verb: str, *more: str) -> None:
        space = f"{self._id}{sender}"
        _ip("-n", space, "neigh", verb, self.address(receiver), "dev", "eth0", *more)

    def close(self) -> None:
        for name in self._hosts:
            _ip("netns", "del", f"{self._id}{name}")
        _ip("link", "del", self._bridge)


@contextmanager
def networks() -> Iterator[Networks]:
    made = Networks()
    try:
        yield made
    finally:
        made.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=_BOUND_S)
