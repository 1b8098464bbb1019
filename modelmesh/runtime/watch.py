"""Looks at what hosts are doing, a few times a second, and acts on what takes too long.

The journal pages say it without a call to anybody, and hosts may lie: an entry counts from when it
was first seen here, unless it began before. A shared host that one entry holds is set aside; an
entry that runs into the operator's timeout ends its host; a host that is leaving ends when its last
call has ended. Where the journal says nothing of what holds a host, `silence` bounds it all the
same.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from time import monotonic
from typing import Final

from modelmesh.observe.tasks import every, logged, stop
from modelmesh.policy.tiering import Tier
from modelmesh.runtime.aftermath import Aftermath
from modelmesh.runtime.blame import Doom, Ran
from modelmesh.runtime.host import Host
from modelmesh.runtime.pool import HostPool
from modelmesh.runtime.silence import Step
from modelmesh.wire import kinds
from modelmesh.wire.journal import JournalEntry

LOOK_S: Final = 0.05
LATE_S: Final = 0.2  # a look that comes so long after the one before finds what nobody watched


class Verdict(Enum):
    """What comes of an entry that takes its time."""

    GOES_ON = "goes on"
    KEEPS = "keeps"  # its host, which the others leave
    ENDS = "ends"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one entry may take, in seconds."""

    set_aside_s: float
    load_timeout_s: float
    predict_timeout_s: float

    def limit_s(self, what: Ran | None) -> float:
        """The timeout of a load, or of anything else."""
        loads = what is not None and what.kind == kinds.LOAD_MODEL
        return self.load_timeout_s if loads else self.predict_timeout_s

    def silence_limit_s(self, suspects: Iterable[Ran]) -> float:
        """The timeout of whatever a silent host may be running."""
        return max(map(self.limit_s, suspects), default=self.predict_timeout_s)

    def verdict(
        self, what: Ran | None, held_s: float, starved_s: float, *, shared: bool
    ) -> Verdict:
        """`held_s`: for how long it has had its host; `starved_s`: for how much of that the machine
        had no CPU, which is held against no model. Timeouts count it: callers wait all the same.
        """
        if held_s > self.limit_s(what):
            return Verdict.ENDS
        stalls = shared and held_s - starved_s > self.set_aside_s
        return Verdict.KEEPS if stalls else Verdict.GOES_ON


class Watch:
    """The loop. `room_for` says whether a host's models fit into memory twice."""

    def __init__(
        self,
        pool: HostPool,
        aftermath: Aftermath,
        patience: Patience,
        room_for: Callable[[Host], bool],
    ) -> None:
        self._pool = pool
        self._aftermath = aftermath
        self._patience = patience
        self._room_for = room_for
        self._least_s = min(
            patience.set_aside_s, patience.load_timeout_s, patience.predict_timeout_s
        )
        self._task: asyncio.Task[None] | None = None
        self._looked = monotonic()
        self._excused = False

    def start(self) -> None:
        """Begin to look."""
        self._looked = monotonic()
        self._task = every(LOOK_S, self._look_at_all, "watch hosts")

    async def close(self) -> None:
        """Look no more."""
        await stop(self._task)

    async def _look_at_all(self) -> None:
        now = monotonic()
        if self._excuses(now):
            return
        for host in list(self._pool.living.values()):
            await logged(self._look(host, now), f"look at host {host.number}")

    def _excuses(self, now: float) -> bool:
        """Whether this look judges nobody: what kept us from looking, a machine that stood still,
        may have kept the hosts, and they have until the next look to go on. Not twice in a row."""
        late, self._looked = now - self._looked > LATE_S, now
        self._excused = late and not self._excused
        return self._excused

    async def _look(self, host: Host, now: float) -> None:
        if host.leaving and not host.retired and not host.link.unanswered_count:
            await host.retire()
            return
        entry = host.running()
        held_s = host.held_s(entry, now)
        if entry.call_ids and held_s > self._least_s and host.usable:
            self._act(host, entry, held_s)
        if host.usable and host.doom is None:
            self._listen(host, now)

    def _listen(self, host: Host, now: float) -> None:
        """Ask a host that is silent, and end one that gives no answer."""
        link, patience = host.link, self._patience
        is_open = link.is_open(host.silence.question_id)
        silence = host.silence = host.silence.goes_on(link.counts, is_open, now)
        limit_s = min(patience.predict_timeout_s, patience.load_timeout_s)
        step = silence.step(now, patience.set_aside_s, limit_s)
        if step is Step.END:
            limit_s = patience.silence_limit_s(host.suspects().values())
            step = silence.step(now, patience.set_aside_s, limit_s)
        if step is Step.ASK:
            host.ask(now)
        elif step is Step.END:
            host.condemn(Doom.SILENCE, limit_s)

    def _act(self, host: Host, entry: JournalEntry, held_s: float) -> None:
        what, shared = host.what(entry), host.tier is Tier.SHARED
        starved_s = host.starved_s() if shared else 0.0
        verdict = self._patience.verdict(what, held_s, starved_s, shared=shared)
        if verdict is Verdict.ENDS:
            host.condemn(Doom.TIMEOUT, self._patience.limit_s(what))
        elif verdict is Verdict.KEEPS and self._room_for(host):
            why = f"held a shared host for {held_s * 1e3:.0f} ms"
            self._aftermath.keep_for_running(self._pool, host, entry, why)
        elif verdict is Verdict.KEEPS:
            host.condemn(Doom.NO_ROOM)
