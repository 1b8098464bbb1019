"""What follows when a host dies, stalls or is tainted: who is to blame, and what the others lose.

They lose nothing. Four rules, in the order of this file:

* A dead host: what its journal names was running and is to blame; it is answered, never repeated.
  Every other unanswered call never began and is sent again. Residents that are not to blame come
  back in another host when they are called next.
* A host that was ended for its silence: its journal is a lie, and `blame` says whom the daemon's
  own knowledge accuses. Where it cannot tell, every suspect has a host to itself until one of
  them is convicted.
* A stalled host: one entry has held it for too long. The gate in the journal page is shut, so that
  nothing else begins there; the slow model keeps the host to itself, all others move on.
* A tainted host: a load has left threads or children behind, which may bring the host down in
  anybody's turn: the same, at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from time import monotonic
from typing import Final

import structlog

from modelmesh.errors import Failure
from modelmesh.observe.tasks import spawn
from modelmesh.runtime import blame
from modelmesh.runtime.blame import Doom, End, Ran, Suspicion, Verdict
from modelmesh.runtime.conduct import Conduct
from modelmesh.runtime.door import LoadRequest
from modelmesh.runtime.host import NOTHING, Host, Remains, ran
from modelmesh.runtime.pool import HostPool
from modelmesh.runtime.residents import Resident
from modelmesh.wire import kinds
from modelmesh.wire.journal import JournalEntry
from modelmesh.wire.transport import Call

log = structlog.get_logger("runtime")

INFERENCE: Final = frozenset(
    {
        kinds.MODEL_INFER,
        kinds.MODEL_METADATA,
        kinds.V1_PREDICT,
        kinds.V1_EXPLAIN,
        kinds.V2_INFER,
    }
)


class Aftermath:
    """Blame and rescue. `resend` runs a call that never began; `lose` ends a resident."""

    def __init__(
        self,
        residents: Mapping[str, Resident],
        loading: Mapping[str, LoadRequest],
        conduct: Conduct,
        resend: Callable[[str, Call], None],
        bring_back: Callable[[Resident], None],
        lose: Callable[[Resident, Failure, Failure], None],
        is_harmless: Callable[[str], bool],
        settle: Callable[[Resident], None],
    ) -> None:
        self._residents = residents
        self._loading = loading
        self._conduct = conduct
        self._resend = resend
        self._bring_back = bring_back
        self._lose = lose
        self._is_harmless = is_harmless
        self._settle = settle

    # --- a dead host

    def host_ended(self, host: Host, remains: Remains) -> None:
        """The host is dead and drained."""
        if host.doom is Doom.SILENCE:
            hidden = blame.suspicion(host.suspects(), host.sole, self._is_harmless)
            remains = replace(remains, running=replace(NOTHING, call_ids=tuple(hidden.began)))
        else:
            hidden = Suspicion(frozenset())
        running = set(remains.running.call_ids)
        guilty = [call for call_id, call in remains.unanswered.items() if call_id in running]
        culprit = None if hidden.apart else hidden.culprit or self._culprit(host, remains)
        log.info("host ended", host=host.number, pid=host.pid, retired=host.retired)
        for resident in self._living_in(host):
            resident.home = None
            resident.accused = culprit is not None and culprit.model_id == resident.request.model_id
        if culprit is not None:
            spawn(self._judge(host, culprit, guilty), f"judge {culprit.model_id}")
        elif hidden.apart:
            self._part(host, hidden.apart, guilty)
        for call_id, call in remains.unanswered.items():
            if call_id not in running:
                self._rescue(call)
        for resident in list(self._residents.values()):
            if resident.waiting and resident.home is None:
                self._bring_back(resident)

    def _culprit(self, host: Host, remains: Remains) -> Ran | None:
        """What was running; in a host of one model, that model even if nothing was.

        Nobody, where the daemon let go of what nobody waited for: that is no crash.
        """
        let_go = host.retired and host.doom is None
        for call_id in remains.running.call_ids:
            if call_id in remains.unanswered:
                return ran(remains.unanswered[call_id])
            if call_id in host.link.left and not let_go:
                return host.link.left[call_id]
        alone = self._residents.get(host.sole)
        if alone is not None and alone.home is host and not host.retired:
            return Ran("", host.sole)
        return None

    async def _judge(self, host: Host, culprit: Ran, guilty: list[Call]) -> None:
        """Say how it ended, as soon as its keeper has told."""
        end = End(await host.how_it_ended(), host.doom, host.limit_s)
        verdict = blame.verdict(culprit.kind, end)
        log.warning(
            "a model cost its host",
            model=culprit.model_id,
            host=host.number,
            pid=host.pid,
            shared=not host.sole,
            offence=verdict.offence,
        )
        self._remember(culprit, verdict)
        for model_id in self._conduct.acquit(culprit.model_id):
            if model_id in self._residents:
                self._settle(self._residents[model_id])
        for call in guilty:
            if call.kind == kinds.UNLOAD_MODEL:
                call.reply.answer(b"")  # its memory is given back
            else:
                call.reply.finish(verdict.failure)
        resident = self._residents.get(culprit.model_id)
        if resident is not None and resident.accused:
            resident.accused = False
            self._lose(resident, verdict.failure, blame.NEVER_BEGAN)

    def _part(self, host: Host, suspects: frozenset[str], may_have_begun: list[Call]) -> None:
        """One of them hid that it held the host: the next time it will be known which."""
        log.warning("a host fell silent", host=host.number, pid=host.pid, models=sorted(suspects))
        for model_id in suspects:
            self._suspect(model_id, suspects)
        for call in may_have_begun:
            end = End("", host.doom, host.limit_s)
            call.reply.finish(blame.verdict(call.kind, end).failure)

    def _suspect(self, model_id: str, among: frozenset[str]) -> None:
        resident = self._residents.get(model_id)
        request = resident.request if resident else self._loading.get(model_id)
        if request is not None:
            self._conduct.suspected(request, "was in a shared host that fell silent", among)
        if resident is not None:
            resident.trial = None  # it settles when it is acquitted

    def _remember(self, culprit: Ran, verdict: Verdict) -> None:
        resident = self._residents.get(culprit.model_id)
        request = resident.request if resident else self._loading.get(culprit.model_id)
        if request is not None:
            self._conduct.lost_host(request, verdict.offence, monotonic())

    def _rescue(self, call: Call) -> None:
        """A call that never began in the host that it was sent to."""
        if call.kind in INFERENCE:
            self._resend(ran(call).model_id, call)
        elif call.kind == kinds.UNLOAD_MODEL:
            call.reply.answer(b"")
        else:
            call.reply.finish(blame.NEVER_BEGAN)

    # --- a host for one model only

    def keep_for(self, pool: HostPool, host: Host, model_id: str, why: str) -> None:
        """The model keeps the host; whatever else was sent there and has not begun goes on."""
        self._take_over(pool, host, model_id, host.shut(), why)

    def keep_for_running(self, pool: HostPool, host: Host, entry: JournalEntry, why: str) -> None:
        """The same, for the model of an entry that runs too long; nothing if it has ended."""
        slow = host.what(entry)
        now = host.shut()
        if slow is None or now.sequence != entry.sequence or now.call_ids != entry.call_ids:
            host.reopen()
            return
        self._take_over(pool, host, slow.model_id, now, why)

    def _take_over(
        self, pool: HostPool, host: Host, model_id: str, running: JournalEntry, why: str
    ) -> None:
        log.warning("host set aside", host=host.number, pid=host.pid, model=model_id, why=why)
        pool.set_aside(host)
        host.sole = model_id
        self._note_stall(model_id, why)
        for resident in self._living_in(host):
            if resident.request.model_id != model_id:
                resident.home = None
        taken = [
            host.link.withdraw(call_id)
            for call_id in host.link.unanswered()
            if call_id not in running.call_ids
        ]
        for call in taken:
            if call is not None:
                self._send_on(host, model_id, call)
        self._empty(host, model_id)

    def _note_stall(self, model_id: str, why: str) -> None:
        resident = self._residents.get(model_id)
        request = resident.request if resident else self._loading.get(model_id)
        if request is not None:
            self._conduct.stalled(request, why)
        if resident is not None:
            resident.trial = None
            resident.loaded = replace(resident.loaded, tier="process", reason=why)

    def _send_on(self, host: Host, model_id: str, call: Call) -> None:
        """The model's own calls, and unloads, go to the same host again, behind the gate."""
        if call.kind == kinds.UNLOAD_MODEL or ran(call).model_id == model_id:
            host.link.start(call)
        else:
            self._rescue(call)

    def _empty(self, host: Host, model_id: str) -> None:
        """The others' memory there is given back as soon as the host is free."""
        for other in [name for name in host.models if name != model_id]:
            del host.models[other]
            host.discard(other)

    def _living_in(self, host: Host) -> list[Resident]:
        found = (self._residents.get(model_id) for model_id in host.models)
        return [resident for resident in found if resident and resident.home is host]
