"""Who exists: this daemon's own record under a lease, and the records of all the others.

    join -> [publish]* -> leave

The lease (30 s by default) says who exists and nothing about who answers. It is kept alive three
times in its life, and each time the daemon reads its own record: a lease that was lost is replaced
within a second, and a record that somebody else has taken over is noticed (`replaced`), so that a
daemon which slept does not go on under a name that is no longer its own. `epoch` tells the two
apart: it grows with each joining.

An identity in use is refused if its holder answers; a silent holder's record is taken over.
The leader is the instance whose latch was created first (ModelMesh's rule).
Must never judge whether a peer is alive: that is the peers room's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Final

import structlog

from modelmesh.domain.instances import InstanceRecord
from modelmesh.errors import Code, Failure, Fault, MeshError
from modelmesh.observe.spells import Spell
from modelmesh.observe.tasks import spawn, stop
from modelmesh.registry.store import INSTANCES, LEADER, Compare, Entry, Event, Put
from modelmesh.registry.tables import TabledStore

log = structlog.get_logger("registry")

# How soon a lost lease, or a store that did not answer, is tried again.
RETRY_S: Final = 1.0
# A record that another daemon took over meanwhile is not fought over for longer than this.
ATTEMPTS: Final = 8

Answers = Callable[[InstanceRecord], Awaitable[bool]]


class Membership:
    """This instance among the others."""

    def __init__(
        self,
        store: TabledStore,
        me: str,
        wall_ms: Callable[[], int],
        *,
        ttl_s: float,
        replaced: Callable[[], None] = lambda: None,
    ) -> None:
        """`replaced` is told when somebody else has joined under this id."""
        self._store = store
        self._table = store.table(INSTANCES)
        self._latches = store.table(LEADER)
        self._me = me
        self._wall_ms = wall_ms
        self._ttl_s = ttl_s
        self._replaced = replaced
        self._record: InstanceRecord | None = None
        self._revision = 0  # of our own record, as we last wrote or saw it
        self._lease = 0
        self._left = False
        self._sure_s = -inf  # as of when our record was surely ours, on the loop's clock
        self._keeper: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._decoded: dict[str, tuple[int, InstanceRecord]] = {}

    # --- looking

    @property
    def record(self) -> InstanceRecord:
        """Our own, as last published."""
        assert self._record is not None, "not joined"
        return self._record

    @property
    def joined(self) -> bool:
        return self._record is not None

    def others(self) -> Mapping[str, InstanceRecord]:
        """Every other instance's record; what cannot be read is left out, and logged once."""
        names = [name for name in self._table.names() if name != self._me]
        self._decoded = {name: known for name in names if (known := self._decode(name)) is not None}
        return {name: record for name, (_, record) in self._decoded.items()}

    def is_leader(self) -> bool:
        """Whether our latch is the oldest of all."""
        latches = (self._latches.get(name) for name in self._latches.names())
        oldest = min((e for e in latches if e is not None), key=_created, default=None)
        mine = self._latches.get(_latch(self._me))
        return mine is not None and oldest is not None and _created(mine) == _created(oldest)

    def subscribe(self, listener: Callable[[list[Event]], None]) -> Callable[[], None]:
        """Be told that some instance's record has changed."""
        return self._table.subscribe(listener)

    # --- being one of them

    async def join(self, record: InstanceRecord, answers: Answers) -> InstanceRecord:
        """Publish ourselves under a new epoch. FAILED_PRECONDITION if the id's holder answers."""
        entry = await self._store.get(INSTANCES + self._me)
        holder = _read(entry) if entry is not None else None
        if holder is not None and holder.address != record.address and await answers(holder):
            message = f"instance {self._me} is in use at {holder.address}, and it answers"
            raise MeshError(Failure(Code.FAILED_PRECONDITION, message, Fault.PEER))
        await self._write_new(record, entry)
        self._keeper = spawn(self._keep_for_ever(), "membership", eternal=True)
        return self.record

    async def publish(self, record: InstanceRecord) -> None:
        """Write what we say of ourselves now; our epoch and start stay as they are.

        A record that is no longer ours is left alone, and `replaced` is told. Who has left says
        nothing more.
        """
        if self._left:
            return
        async with self._writing:  # only now: a joining that is under way gives us a new epoch
            ours = self.record
            await self._put(replace(record, epoch=ours.epoch, start_ms=ours.start_ms))

    async def leave(self) -> None:
        """Take our record away at once (bounded by the store's own bound; never raises)."""
        self._left = True
        await stop(self._keeper, self._looking)
        if self._lease:
            try:
                await self._store.revoke(self._lease)
            except MeshError as error:
                log.warning("left without a word", failure=error.failure.message)
        self._lease = 0

    async def holder(self) -> InstanceRecord | None:
        """Whose record stands under our id in the store, if it is not ours."""
        entry = await self._store.get(INSTANCES + self._me)
        found = _read(entry) if entry is not None else None
        return None if found is None or found.epoch == self.record.epoch else found

    async def rejoin(self) -> None:
        """Join anew under a new epoch (we were replaced, and the one who did is silent)."""
        async with self._writing:
            await self._write_new(self.record, await self._store.get(INSTANCES + self._me))

    async def be_sure(self) -> None:
        """Read our own record first, if the keeper is late: who stood still may have been replaced.

        Callers share the read. A store that does not answer says nothing, and nobody waits for it
        longer than its patience.
        """
        late_s = asyncio.get_running_loop().time() - self._sure_s
        if self._left or not self.joined or late_s < self._ttl_s / 3 + RETRY_S:
            return
        if self._looking is None or self._looking.done():
            self._looking = spawn(self._look(), "look at our own record")
        await asyncio.wait([self._looking])

    async def _look(self) -> None:
        try:
            await self._keep()
        except MeshError as error:
            log.info("our own record could not be read", failure=error.failure.message)

    # --- writing

    async def _write_new(self, record: InstanceRecord, entry: Entry | None) -> None:
        for _ in range(ATTEMPTS):
            began_s = asyncio.get_running_loop().time()
            before = _read(entry) if entry is not None else None
            epoch = max(self._wall_ms(), before.epoch + 1 if before is not None else 1)
            record = replace(record, epoch=epoch)
            lease = await self._store.grant(self._ttl_s)
            key, latch = INSTANCES + self._me, LEADER + _latch(self._me)
            done = await self._store.commit(
                [Compare(key, entry.mod_revision if entry is not None else 0)],
                [Put(key, record.to_json(), lease), Put(latch, self._me.encode(), lease)],
            )
            if done.succeeded:
                self._record, self._lease, self._revision = record, lease, done.revision
                self._sure_s = began_s
                return
            await self._store.revoke(lease)
            entry = done.current[0][1]
        raise MeshError(_contended(self._me))

    async def _put(self, record: InstanceRecord) -> None:
        key = INSTANCES + self._me
        put = Put(key, record.to_json(), self._lease)
        done = await self._store.commit([Compare(key, self._revision)], [put])
        if done.succeeded:
            self._record, self._revision = record, done.revision
            return
        await self._seen(done.current[0][1])

    async def _seen(self, entry: Entry | None) -> None:
        """Our record is not as we wrote it last."""
        found = _read(entry) if entry is not None else None
        if entry is not None and found is not None and found.epoch == self.record.epoch:
            self._revision = entry.mod_revision  # our own write, whose answer was lost
        elif found is None:
            log.warning("our record was gone, and is written anew")
            await self._write_new(self.record, entry)
        else:
            log.error("another daemon has joined under this id", epoch=found.epoch)
            self._replaced()

    # --- staying

    async def _keep_for_ever(self) -> None:
        pause_s = self._ttl_s / 3
        unkept = Spell(log, "the lease could not be kept")
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._keep()
                unkept.over()
                pause_s = self._ttl_s / 3
            except MeshError as error:
                unkept.goes_on(failure=error.failure.message)
                pause_s = RETRY_S

    async def _keep(self) -> None:
        """Refresh the lease, and believe only our own record."""
        async with self._writing:
            began_s = asyncio.get_running_loop().time()
            alive = await self._store.keep_alive(self._lease)
            entry = await self._store.get(INSTANCES + self._me)
            if entry is None or entry.mod_revision != self._revision:
                await self._seen(entry)
            elif not alive:
                await self._write_new(self.record, entry)
            if entry is not None and entry.mod_revision == self._revision:
                self._sure_s = began_s

    def _decode(self, name: str) -> tuple[int, InstanceRecord] | None:
        entry = self._table.get(name)
        if entry is None:
            return None
        known = self._decoded.get(name)
        if known is not None and known[0] == entry.mod_revision:
            return known
        record = _read(entry)
        if record is None:
            log.warning("an instance record cannot be read", instance=name)
            return None
        return entry.mod_revision, record


def _latch(instance_id: str) -> str:
    return f"_{instance_id}"


def _created(entry: Entry) -> int:
    return entry.create_revision


def _read(entry: Entry) -> InstanceRecord | None:
    try:
        return InstanceRecord.from_json(entry.value)
    except (ValueError, TypeError):
        return None


def _contended(me: str) -> Failure:
    message = f"the record of instance {me} is being changed by others"
    return Failure(Code.ABORTED, message, Fault.STORE, retry_after_s=RETRY_S)
