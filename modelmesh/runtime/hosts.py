"""Our own hosts as one `Runtime`: tiers, blame without collateral, and moves that nobody notices.

The daemon is told that a model is loaded, and it stays so: when a host dies for one model's sake,
the others have no home for the moment, and their next call brings them back in a fresh host before
it runs. Calls that the dead host never began are sent to the new one; calls that it was running are
never sent again. Who was running is what the host's journal says, after the host is dead and its
socket is drained.

    _Model in a host -> host dies -> no home -> a call comes -> loading -> another host
                                  -> culprit: lost, told to the listener, remembered

Must never: wait for a host on the loop, send a call twice that may have begun, or open a model.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Final

import structlog

import modelmesh
from modelmesh.errors import Code, Failure, MeshError, Reason
from modelmesh.observe import machine
from modelmesh.observe.tasks import spawn, stop
from modelmesh.policy import tiering
from modelmesh.policy.tiering import Measured, Tier, TierDecision, TierFacts, TierLimits
from modelmesh.runtime import blame, client, trials
from modelmesh.runtime.aftermath import Aftermath
from modelmesh.runtime.blame import Doom, End
from modelmesh.runtime.conduct import Conduct
from modelmesh.runtime.departures import END_S, Departures
from modelmesh.runtime.door import (
    LoadedModel,
    LoadRequest,
    Part,
    RuntimeListener,
    RuntimeStatus,
)
from modelmesh.runtime.experience import Experience
from modelmesh.runtime.host import Host, named
from modelmesh.runtime.pool import HostPool
from modelmesh.runtime.residents import Resident
from modelmesh.runtime.types import Types
from modelmesh.runtime.watch import Patience, Watch
from modelmesh.runtime.weights import Weights, private_bytes, proportional_bytes
from modelmesh.runtime.zygote import ZygoteClient, ZygoteConfig
from modelmesh.wire import kinds
from modelmesh.wire.frames import Times
from modelmesh.wire.transport import Call, failed

log = structlog.get_logger("runtime")

MIB: Final = 1 << 20
MOST_PLACES: Final = 5  # hosts that may die under a load that never began, before it gives up
LEAST_DATA_BYTES: Final = 64 * MIB  # what a host may allocate, however little there is for models


@dataclass(frozen=True, slots=True)
class HostsConfig:
    """What the hosts take from the settings; 0 hosts or loads: decided from the cores."""

    tier: str = "auto"
    shared_hosts: int = 1
    shared_file_bytes: int = MIB
    set_aside_s: float = 0.25
    load_timeout_s: float = 90.0
    predict_timeout_s: float = 60.0
    load_concurrency: int = 0
    quarantine_crashes: int = 3
    load_failure_expiry_s: float = 900.0
    default_model_size_bytes: int = MIB
    capacity_bytes: int = 0  # 0 = not bounded here
    weigh_s: float = 5.0
    zygote: ZygoteConfig = field(default_factory=ZygoteConfig)


class HostedRuntime:
    """The `Runtime` door over hosts."""

    def __init__(self, config: HostsConfig) -> None:
        self._config = config
        self._limits = TierLimits(
            wish=Tier(config.tier), shared_file_bytes=config.shared_file_bytes
        )
        self._residents: dict[str, Resident] = {}
        self._loading: dict[str, LoadRequest] = {}
        self._parting: dict[str, Host] = {}  # from where unloads are under way, or have failed
        self._conduct = Conduct(config.quarantine_crashes, config.load_failure_expiry_s)
        self._experience = Experience(self._limits)
        self._types = Types((), frozenset())
        self._aftermath = Aftermath(
            self._residents,
            self._loading,
            self._conduct,
            resend=self.infer,
            bring_back=self._bring_back,
            lose=self._lose,
            is_harmless=self._is_harmless,
            settle=self._acquitted,
        )
        self._zygote = ZygoteClient(config.zygote)
        self._pool = HostPool(
            self._zygote,
            config.shared_hosts,
            max(config.capacity_bytes or machine.memory_bytes(), LEAST_DATA_BYTES),
            self._aftermath.host_ended,
            self._took,
        )
        patience = Patience(config.set_aside_s, config.load_timeout_s, config.predict_timeout_s)
        self._watch = Watch(self._pool, self._aftermath, patience, self._room_for)
        longest_s = config.load_timeout_s + config.predict_timeout_s
        self._departures = Departures(self._renew, config.load_timeout_s, longest_s)
        self._weights = Weights(self._pool, self._residents, self._renew, config.weigh_s)
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: RuntimeListener

    # --- the door

    def begin(self) -> None:
        """Let the zygote import what it must; `start` waits for it, and `close` ends it."""
        self._zygote.begin()

    async def start(self, listener: RuntimeListener) -> RuntimeStatus:
        self._listener = listener
        try:
            facts = await self._pool.start()
        except BaseException:
            await self._pool.close(0.0)
            raise
        self._types = Types(facts.types, facts.quick_types)
        await self._weights.start(listener)
        self._watch.start()
        pids = [self._zygote.pid, *(host.pid for host in self._pool.living.values())]
        loads = self._config.load_concurrency or max(4, 2 * self._config.shared_hosts)
        return RuntimeStatus(
            capacity_bytes=0,
            default_model_size_bytes=self._config.default_model_size_bytes,
            max_loading_concurrency=loads,
            load_timeout_s=self._config.load_timeout_s,
            version=modelmesh.__version__,
            base_bytes=await proportional_bytes(pids),
        )

    def check(self, model_type: str) -> None:
        self._types.check(model_type)

    def predict_size(self, request: LoadRequest) -> int:
        known = self._experience.size_bytes(request)
        guess = 2 * request.file_bytes or self._config.default_model_size_bytes
        return max(1, known or guess)

    async def load(self, request: LoadRequest) -> LoadedModel:
        self.check(request.type)
        quarantine = self._conduct.quarantine(request, monotonic())
        if quarantine is not None:
            raise MeshError(quarantine)
        if request.model_id in self._residents:
            await self.unload(request.model_id)
        digest = await self._experience.digest(request)
        decision = tiering.choose_tier(self._facts(request, digest), self._limits)
        host, loaded = await self._place(request, decision)
        resident = Resident(request, loaded, host if host.usable else None, digest)
        if host.tier is Tier.PROCESS and self._limits.wish is Tier.AUTO:
            resident.trial = Measured(loaded.load_s, loaded.size_bytes)  # until it has settled
        self._residents[request.model_id] = resident
        return loaded

    async def unload(self, model_id: str) -> None:
        resident = self._residents.pop(model_id, None)
        if resident is not None:
            failed(resident.waiting, _not_held(model_id))
            if resident.home is not None:
                self._parting[model_id] = resident.home
        if model_id in self._parting:
            await self._departures.leave(self._parting[model_id], model_id)
            self._parting.pop(model_id, None)

    async def expel(self, model_id: str) -> bool:
        host = self._parting.pop(model_id, None)
        return host is None or await self._departures.end_gently(host, model_id)

    def infer(self, model_id: str, call: Call) -> None:
        resident = self._residents.get(model_id)
        if resident is None:
            call.reply.finish(_not_held(model_id))
            return
        home = resident.home
        if home is None or home.link.closed:
            resident.wait(call)
            if home is None:
                self._bring_back(resident)
            return
        addressed = resident.addressed(call)
        if resident.trial is not None and not home.link.unanswered_count:
            addressed = trials.timed(addressed, partial(self._predicted, resident))
        home.link.start(addressed)

    def describe(self, model_id: str) -> LoadedModel | None:
        resident = self._residents.get(model_id)
        return resident.loaded if resident else None

    def pids(self) -> dict[str, int]:
        """The processes in which the models live now, for diagnosis."""
        homes = ((model_id, found.home) for model_id, found in self._residents.items())
        return {model_id: home.pid for model_id, home in homes if home is not None}

    @property
    def zygote_pid(self) -> int:
        """For diagnosis; 0: none runs at this moment."""
        return self._zygote.pid

    async def close(self, grace_s: float) -> None:
        await self._watch.close()
        await self._weights.close()
        await stop(*self._tasks)
        for resident in self._residents.values():
            failed(resident.waiting, blame.NEVER_BEGAN)
        self._residents.clear()
        await self._pool.close(grace_s)

    # --- placing

    def _facts(self, request: LoadRequest, digest: str) -> TierFacts:
        return TierFacts(
            request.file_bytes,
            self._experience.measured(digest),
            self._conduct.offence(request) or request.offence,
            self._types.always_quick(request.type),
        )

    async def _place(
        self, request: LoadRequest, decision: TierDecision
    ) -> tuple[Host, LoadedModel]:
        """Load where the decision says; again elsewhere while hosts die before it began."""
        for _ in range(MOST_PLACES):
            host = await self._host_for(request, decision.tier)
            try:
                return host, await self._load_into(host, request, decision)
            except MeshError as error:
                if decision.tier is Tier.SHARED and error.failure.reason is Reason.NO_SPACE:
                    decision = self._apart(request)
                elif not _never_began(error.failure):
                    raise
                elif decision.tier is Tier.SHARED and self._conduct.offence(request):
                    decision = TierDecision(Tier.PROCESS, self._conduct.offence(request))
                log.info("a load goes to another host", model=request.model_id, tier=decision.tier)
        raise MeshError(blame.NEVER_BEGAN)

    def _apart(self, request: LoadRequest) -> TierDecision:
        """What is too large for a shared host shows alone whether it is too large for any."""
        self._conduct.stalled(request, "found no memory in a shared host")
        return TierDecision(Tier.PROCESS, self._conduct.offence(request))

    async def _host_for(self, request: LoadRequest, tier: Tier) -> Host:
        if tier is Tier.SHARED:
            return await self._pool.shared_host()
        known = self._experience.size_bytes(request)
        host = await self._pool.process_host(max(2 * known, LEAST_DATA_BYTES) if known else 0)
        host.sole = request.model_id
        return host

    async def _load_into(
        self, host: Host, request: LoadRequest, decision: TierDecision
    ) -> LoadedModel:
        model_id = request.model_id
        host.models[model_id] = self.predict_size(request)
        self._loading[model_id] = request
        started = monotonic()
        try:
            answer = await client.load(
                host.link,
                request,
                started + 2 * self._config.load_timeout_s,
                named(model_id),
                partial(self._tainted, host, model_id),
            )
            size_bytes = await self._weigh(host, model_id, answer.size_bytes)
        except BaseException as error:
            self._give_up(host, model_id)
            if isinstance(error, MeshError):
                raise self._load_failure(error) from None
            raise
        finally:
            self._loading.pop(model_id, None)
        took_s = monotonic() - started
        host.models[model_id] = size_bytes
        self._experience.weighed(request, size_bytes)
        as_decided = host.tier is decision.tier
        return LoadedModel(
            size_bytes,
            took_s if answer.load_s is None else min(answer.load_s, took_s),
            str(host.tier),
            decision.reason if as_decided else self._conduct.offence(request),
            answer.warnings,
            answer.max_concurrency,
        )

    def _give_up(self, host: Host, model_id: str) -> None:
        """A load has failed, or nobody wants it any more: it may be done all the same.

        The unload leaves at once, so that it is before the next load of this model.
        """
        host.models.pop(model_id, None)
        if host.sole == model_id:
            self._spawn(host.end(END_S), f"end host {host.number}")
        elif host.usable:
            host.discard(model_id)

    def _tainted(self, host: Host, model_id: str, left: str) -> None:
        if host.tier is Tier.SHARED:
            self._aftermath.keep_for(self._pool, host, model_id, f"left a {left} behind")

    def _load_failure(self, error: MeshError) -> MeshError:
        failure = error.failure
        if failure.code is Code.DEADLINE_EXCEEDED and failure.reason is not Reason.LOAD_TIMEOUT:
            limit = Doom.TIMEOUT, self._config.load_timeout_s
            return MeshError(blame.verdict(kinds.LOAD_MODEL, End("", *limit)).failure)
        return error

    async def _weigh(self, host: Host, model_id: str, measured_bytes: int) -> int:
        """A shared host's own measure; a process host weighs all that nobody else has."""
        started = monotonic()
        alone_bytes = 0 if host.tier is Tier.SHARED else await private_bytes(host.pid)
        self._listener.took(Part.SIZING, model_id, monotonic() - started)
        return max(1, measured_bytes, alone_bytes)

    # --- coming back

    def _bring_back(self, resident: Resident) -> None:
        if not resident.moving and not resident.accused:
            resident.moving = True
            self._spawn(self._return(resident), f"bring back {resident.request.model_id}")

    async def _return(self, resident: Resident) -> None:
        """Load a model whose host has died into another, and run what waits for it."""
        request = resident.request
        decision = tiering.choose_tier(self._facts(request, resident.digest), self._limits)
        try:
            host, loaded = await self._place(request, decision)
        except MeshError as error:
            self._lose(resident, error.failure, replace(error.failure, executed=False))
            return
        finally:
            resident.moving = False
        if self._residents.get(request.model_id) is not resident:
            await self._departures.clear(host, request.model_id)
            return
        self._move_in(resident, host, loaded)

    def _move_in(self, resident: Resident, host: Host, loaded: LoadedModel) -> None:
        old, resident.loaded = resident.loaded, loaded
        resident.home = host if host.usable else None
        waiting, resident.waiting = resident.waiting, []
        for call in waiting:
            self.infer(resident.request.model_id, call)
        if loaded.size_bytes != old.size_bytes:
            self._listener.model_resized(resident.request.model_id, loaded.size_bytes)

    def _lose(self, resident: Resident, failure: Failure, waiting: Failure) -> None:
        """The model is gone, and this is why; what waits for it gets `waiting`."""
        model_id = resident.request.model_id
        if self._residents.get(model_id) is not resident:
            return
        del self._residents[model_id]
        log.warning("model lost", model=model_id, why=failure.message)
        self._listener.model_lost(model_id, failure)
        failed(resident.waiting, waiting)

    # --- moving, make before break

    def _predicted(self, resident: Resident, took_s: float) -> None:
        """A model in its trial has answered."""
        if resident.trial is None:
            return
        trial = resident.trial = trials.after(resident.trial, took_s)
        self._experience.saw(resident.digest, trial)
        if trial.predicts < self._limits.trial_predicts:
            return
        resident.trial = None
        request = resident.request
        facts = TierFacts(request.file_bytes, trial, self._conduct.offence(request))
        decision = tiering.settles(facts, self._limits)
        if decision.tier is Tier.SHARED:
            self._spawn(self._settle(resident, decision), f"settle {request.model_id}")

    def _acquitted(self, resident: Resident) -> None:
        """It was kept apart for what another did: it goes back to where it belongs."""
        facts = self._facts(resident.request, resident.digest)
        decision = tiering.choose_tier(facts, self._limits)
        if decision.tier is Tier.SHARED:
            self._spawn(self._settle(resident, decision), f"settle {resident.request.model_id}")

    async def _settle(self, resident: Resident, decision: TierDecision) -> None:
        await self._move(resident, await self._pool.shared_host(), decision)

    def _renew(self, host: Host) -> None:
        """Replace a worn host, once."""
        if not host.renewed:
            host.renewed = True
            self._spawn(self._empty_into_another(host), f"renew host {host.number}")

    async def _empty_into_another(self, host: Host) -> None:
        try:
            other = await self._pool.another_shared()
        except MeshError as error:
            host.renewed = False  # until it is weighed again
            log.warning("worn host stays", host=host.number, why=error.failure.message)
            return
        host.leaving = True
        for model_id in list(host.models):
            resident = self._residents.get(model_id)
            if resident is not None and resident.home is host and not resident.moving:
                decision = TierDecision(Tier.SHARED, resident.loaded.reason)
                await self._move(resident, other, decision)

    async def _move(self, resident: Resident, host: Host, decision: TierDecision) -> None:
        """Load the model into that host as well, then let it answer from there."""
        model_id, old = resident.request.model_id, resident.home
        if old is None or resident.moving:
            return
        resident.moving = True
        try:
            loaded = await self._load_into(host, resident.request, decision)
        except MeshError as error:
            log.warning("model cannot move", model=model_id, why=error.failure.message)
            loaded = None
        finally:
            resident.moving = False
        still_here = self._residents.get(model_id) is resident and not resident.accused
        if loaded is not None and still_here and resident.home in (old, None):
            self._move_in(resident, host, loaded)
            self._move_out(old, model_id)
        elif loaded is not None:
            await self._departures.clear(host, model_id)
        elif resident.waiting and resident.home is None:
            self._bring_back(resident)

    def _move_out(self, old: Host, model_id: str) -> None:
        if old.sole == model_id:
            old.leaving = True
        elif old.models.pop(model_id, None) is not None and old.usable:
            old.discard(model_id)

    # --- the rest

    def _took(self, model_id: str, times: Times) -> None:
        """A host has decoded one call, and maybe encoded its answer."""
        read_s, written_s = times
        if read_s >= 0:
            self._listener.took(Part.PREPROCESS, model_id, read_s)
        if written_s >= 0:
            self._listener.took(Part.POSTPROCESS, model_id, written_s)

    def _is_harmless(self, model_id: str) -> bool:
        """Whether the model has no code of its own, so that it hides nothing (a dummy, say)."""
        resident = self._residents.get(model_id)
        request = resident.request if resident else self._loading.get(model_id)
        return request is not None and self._types.always_quick(request.type)

    def _room_for(self, host: Host) -> bool:
        """Whether memory allows a second host with this one's models beside it."""
        if not self._config.capacity_bytes:
            return True
        held = sum(found.loaded.size_bytes for found in self._residents.values())
        more = sum(host.models.values())
        return held + more + self._weights.overhead_bytes <= self._config.capacity_bytes

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        task = spawn(work, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _never_began(failure: Failure) -> bool:
    """A load that its host provably never started, for no reason of the model's."""
    return (
        failure.code is Code.UNAVAILABLE and not failure.executed and failure.reason is Reason.NONE
    )


def _not_held(model_id: str) -> Failure:
    return Failure(Code.NOT_FOUND, f"model {model_id} is not loaded here")
