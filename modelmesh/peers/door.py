"""Door 2: the other daemons of the fleet, as the serving room sees them.

Who they are is told from outside (`update`: this room knows no registry). Whether they answer is
found out here. A call that is forwarded keeps its body, its deadline and its caller: what the peer
answers goes to the call's own reply, and a caller that leaves leaves there too.

Nothing is ever sent twice here: whoever routes is told what did not work, and decides.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Protocol

from modelmesh.domain.fleet import Hops, Peer
from modelmesh.domain.instances import InstanceRecord
from modelmesh.wire.transport import Call


class Peers(Protocol):
    """The other instances that exist. All methods belong to the daemon's loop."""

    def update(self, records: Mapping[str, InstanceRecord]) -> None:
        """These are the instances there are (this one is left out, if named).

        `Peer` objects live as long as their instance stays named, and change in place. Calls to
        those that are gone may end first.
        """

    def get(self, instance_id: str) -> Peer | None:
        """The peer, if it exists."""

    def all(self) -> Collection[Peer]:
        """Every peer; do not keep it over a turn of the loop."""

    def call(
        self,
        instance_id: str,
        hops: Hops,
        model_id: str,
        call: Call,
        on_suspect: Callable[[], None] | None = None,
    ) -> Callable[[], None]:
        """Forward the call (unary) as it is; never raises, and `call.reply` ends exactly once.

        A peer that is not known, or provably never had the call, ends it with UNAVAILABLE,
        NOT_HERE and `executed=False`, after `Peer.answers` has become false.

        `on_suspect` is called at most once, when the peer falls silent and the call has no answer
        yet (one that only refuses connections may be leaving: it answers what it has, unless that
        came on a link that was given up). The call goes on: an answer that still comes is passed
        on, and a reply drops what comes after its end.

        Returns what gives the call up: the peer is told, and the reply hears nothing more.
        """

    def ask_health(self, instance_id: str) -> Awaitable[bool]:
        """Whether the peer answers, asked now; joins a question that is under way.

        One question without an answer tells nothing, its connection may have broken: the peer is
        asked until it answers, or `Peer.answers` is false.
        """

    def identify(self, address: str) -> Awaitable[str | None]:
        """The id of the daemon that answers at this address, known or not; None: none does."""

    async def close(self, grace_s: float) -> None:
        """Wait (bounded) for calls that are open, end the rest with UNAVAILABLE, close links."""
