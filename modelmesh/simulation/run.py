"""One seed from its beginning to its end: a world, its callers, its faults, and what came of it.

    start daemons -> register -> deeds and faults, a look after each -> calm -> converge -> stop

The same seed and options give the same run, event by event (`digest`), in every process: time comes
from the loop, chance from the seed, and nothing iterates over what has no order.
"""

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Failure, MeshError
from modelmesh.observe.tasks import spawn
from modelmesh.policy.transition import SetVModel
from modelmesh.settings import Settings
from modelmesh.simulation import clock, watching
from modelmesh.simulation.doors import TYPE
from modelmesh.simulation.faults import Fault, Sky, Weather, faults
from modelmesh.simulation.invariants import MOST, Checker, Violation
from modelmesh.simulation.names import Move, Names
from modelmesh.simulation.plants import PLANTS
from modelmesh.simulation.promises import Promises, Request, Span
from modelmesh.simulation.workload import Deed, Doing, Scale, Workload, workload
from modelmesh.simulation.world import Answered, Parts, Pod, World

# After the last fault: a relist and its doubt, a janitor's round, a lost lease, and some.
CONVERGED_S: Final = 200.0
_LOOK_S: Final = 2.0
_GRACE_S: Final = 0.25  # a request ends by its deadline and this
_LET_GO_S: Final = 20.0  # a connection that is silent is given up after 13 s
_STOP_S: Final = 12.0

Tell = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What is played. `policy`: of eviction. `calm`: without faults."""

    scale: Scale = field(default_factory=Scale)
    plant: str = ""
    policy: str = "gdsf"
    calm: bool = False


@dataclass(slots=True)
class Outcome:
    """What came of a seed. `hits`: requests for what some daemon held when they came."""

    seed: int
    violations: list[Violation] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    struck: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    hits: int = 0
    loads: int = 0
    load_s: float = 0.0
    evictions: int = 0
    hops: int = 0
    waited_s: float = 0.0
    converged_s: float = 0.0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    digest: str = ""


def play(seed: int, options: Options | None = None, tell: Tell | None = None) -> Outcome:
    """Play one seed; `tell(at_s, what)` hears of everything."""
    outcome, started = Outcome(seed), time.process_time()

    async def main() -> None:
        game = _Game(seed, options or Options(), outcome, tell)
        heard = None if tell is None else game.hear
        with watching.watching(game.broken, heard):
            watching.guard(asyncio.get_running_loop(), game.broken)
            await game.play()
            asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
        game.over = True

    collects = gc.isenabled()
    gc.disable()  # a world lives for a second: its cycles can wait until it ends
    try:
        clock.run(main())
    finally:
        if collects:
            gc.enable()
    outcome.cpu_s = time.process_time() - started
    return outcome


class _Game:
    """One seed being played."""

    def __init__(self, seed: int, options: Options, outcome: Outcome, tell: Tell | None) -> None:
        self.over = False
        self._outcome = outcome
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._digest = blake2b(digest_size=16)
        self._work: Workload = workload(seed, options.scale)
        plant = PLANTS[options.plant] if options.plant else None
        weather = plant.weather if plant is not None else ()
        self._faults = () if options.calm else faults(seed, self._work.lasts_s, weather)
        settings = Settings(
            capacity_bytes=self._work.capacity_bytes,
            default_model_size_bytes=100_000,
            eviction_policy=options.policy,
        )
        parts = _Joined(plant() if plant is not None else Parts(), self)
        self._world = World(seed, self._work.capacity_bytes, settings, parts)
        self._weather = Weather()
        self._sky = Sky(self._world, self._weather, self.note)
        self._names = Names(self._world, self._weather)
        self._promises = Promises(self._work, self._weather, {}, self._names.exists_since)
        self.checker = Checker(self._world, self._work, self._weather, self._promises, self.broken)
        self._busy: set[str] = set()  # models whose registration is being changed
        self._running: list[asyncio.Task[None]] = []
        self._requests: list[Request] = []

    # --- what is told

    def note(self, what: str) -> None:
        """An event: it makes the run what it is."""
        at_s = self._loop.time() - self._began_s
        self._digest.update(f"{at_s:.6f} {what}\n".encode())
        if self._tell is not None:
            self._tell(at_s, what)

    def hear(self, what: str) -> None:
        """A line of a log: it is told, and is no part of the run."""
        if self._tell is not None:
            self._tell(self._loop.time() - self._began_s, what)

    def broken(self, what: str) -> None:
        if self.over:
            return
        at_s = self._loop.time() - self._began_s
        if len(self._outcome.violations) < MOST:
            self._outcome.violations.append(Violation(at_s, what))
        self.note(f"VIOLATION {what}")

    # --- the play

    async def play(self) -> None:
        work, world = self._work, self._world
        for name in work.pods:
            if await world.start(name) is None:
                self.broken(f"start: {name} does not become ready: {world.why_not_started}")
                return
        first = self._loop.time()
        for start in range(0, len(work.models), 100):
            await self._register(work.pods[0], work.models[start : start + 100])
        events: list[Deed | Fault] = sorted([*work.deeds, *self._faults], key=_at)
        for event in events:
            wait_s = first + event.at_s - self._loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self._do(event)
            self.checker.step()
        await self._settle()
        await self._close()

    def _do(self, event: Deed | Fault) -> None:
        if isinstance(event, Fault):
            self._begin(self._sky.strike(event), "fault")
        elif event.doing in (Doing.ASK, Doing.ASK_NAME):
            self._begin(self._ask(event), "request")
        elif event.doing is Doing.SET:
            self._begin(self._set(event), "set")
        elif event.model_id not in self._busy:
            self._begin(self._change(event), "change")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._running.append(spawn(work, name))

    # --- callers

    async def _ask(self, deed: Deed) -> None:
        world, now = self._world, self._loop.time()
        request = Request(
            str(len(self._requests)), deed.model_id, now, now + deed.timeout_s, deed.idempotent
        )
        request.by_name = deed.doing is Doing.ASK_NAME
        self._requests.append(request)
        held = any(deed.model_id in pod.runtime.resident for pod in world.pods.values())
        request.was_held = held
        answered = await world.call(
            deed.model_id, self._in_turn(deed.pick), request.request_id, deed.timeout_s,
            deed.idempotent, request.by_name,
        )  # fmt: skip
        request.ended_s, request.instance_id = self._loop.time(), answered.instance_id
        self._judge(request, answered)

    def _in_turn(self, pick: float) -> list[str]:
        """The daemons, beginning with the one that is picked."""
        names = self._work.pods
        first = int(pick * len(names))
        return [*names[first:], *names[:first]]

    def _judge(self, request: Request, answered: Answered) -> None:
        outcome, failure = self._outcome, answered.failure
        outcome.requests += 1
        outcome.hits += request.was_held and failure is None
        outcome.waited_s += request.ended_s - request.began_s
        code = failure.code if failure is not None else Code.OK
        outcome.codes[code.name] += 1
        self.note(f"{request.request_id} {request.model_id} {answered.instance_id} {code.name}")
        if request.ended_s > request.deadline_s + _GRACE_S:
            self._accuse(request, "I10: it ended after its deadline")
        if failure is None:
            judge = self._names if request.by_name else self._promises
            self._accuse(request, judge.wrong_answer(request, answered.body or b""))
        else:
            self._accuse(request, self._promises.wrong_failure(request, failure))

    def _accuse(self, request: Request, wrong: str) -> None:
        if wrong:
            since_s = request.began_s - self._began_s
            self.broken(
                f"{wrong} [request {request.request_id} of {request.model_id} through"
                f" {request.instance_id or 'nobody'}, since {since_s:.3f} s]"
            )

    # --- operators

    async def _change(self, deed: Deed) -> None:
        self._busy.add(deed.model_id)
        try:
            asked = [n for n in self._in_turn(deed.pick) if self._accepts(n)]
            if asked and deed.doing is Doing.REGISTER:
                await self._register(asked[0], ((deed.model_id, deed.key),))
            elif asked:
                await self._unregister(asked[0], deed.model_id)
        finally:
            self._busy.discard(deed.model_id)

    async def _set(self, deed: Deed) -> None:
        asked = [n for n in self._in_turn(deed.pick) if self._accepts(n)]
        if not asked:
            return
        move = Move(deed.model_id, deed.key, self._loop.time())
        self._names.moves.setdefault(deed.name, []).append(move)
        vmodels = self._world.pods[asked[0]].daemon.vmodels
        info = ModelRecord(TYPE, "", deed.key)
        request = SetVModel(deed.name, deed.model_id, info, auto_delete=deed.pick < 0.5)
        try:
            await self._world.manage(asked[0], vmodels.set_vmodel(request))
        except MeshError as error:
            self._unsure(f"set {deed.name}", error.failure)
            return
        move.known_s = self._loop.time()
        self.note(f"{deed.name} goes to {deed.model_id}, through {asked[0]}")

    def _accepts(self, name: str) -> bool:
        pod = self._world.pods.get(name)
        return pod is not None and pod.accepts

    async def _register(self, through: str, models: tuple[tuple[str, str], ...]) -> None:
        now, spans = self._loop.time(), self._promises.spans
        new = [each for each in models if not self._is_registered(each[0])]
        if not new:
            return
        for model_id, key in new:
            spans.setdefault(model_id, []).append(Span(key, now))
        try:
            await self._world.register(through, *new)
        except MeshError as error:
            self._unsure(f"register {new[0][0]}", error.failure)
            return
        for model_id, _ in new:
            spans[model_id][-1].known_s = self._loop.time()
        self.note(f"registered {new[0][0]} and {len(new) - 1} more through {through}")

    def _is_registered(self, model_id: str) -> bool:
        """As far as its operator knows; what he is unsure of he leaves alone."""
        spans = self._promises.spans.get(model_id)
        return bool(spans) and spans[-1].end_known_s > self._loop.time()  # type: ignore[index]

    async def _unregister(self, through: str, model_id: str) -> None:
        spans = self._promises.spans.get(model_id)
        if not spans or spans[-1].known_s > self._loop.time():
            return
        if spans[-1].end_asked_s > self._loop.time():
            spans[-1].end_asked_s = self._loop.time()
        try:
            await self._world.unregister(through, model_id)
        except MeshError as error:
            self._unsure(f"unregister {model_id}", error.failure)
            return
        spans[-1].end_known_s = self._loop.time()
        self.note(f"unregistered {model_id} through {through}")

    def _unsure(self, what: str, failure: Failure) -> None:
        self.note(f"{what}: {failure.code.name} {failure.message}")
        if failure.code not in (Code.UNAVAILABLE, Code.ABORTED, Code.DEADLINE_EXCEEDED):
            self.broken(f"I7: {what}: {failure.code.name} {failure.message}")

    # --- the end

    async def _settle(self) -> None:
        """Let everything end, then see whether all agree."""
        while running := [task for task in self._running if not task.done()]:
            await asyncio.wait(running, timeout=60.0)
        calm_s = self._loop.time()
        self._running.clear()
        for _ in range(round(_LET_GO_S / _GRACE_S)):
            if not self.checker.leftovers():
                break
            await asyncio.sleep(_GRACE_S)
        for found in self.checker.leftovers():
            self.broken(found)
        while (
            apart := self.checker.apart() or self._names.apart()
        ) and self._loop.time() - calm_s < CONVERGED_S:
            await asyncio.sleep(_LOOK_S)
            self.checker.step()
        self._outcome.converged_s = self._loop.time() - calm_s
        if apart:
            self.broken(f"I6: {apart}")
        for found in self.checker.durable():
            self.broken(found)
        for request in self._requests:
            executed = self._world.ledger.executions[request.request_id]
            self._accuse(request, self._promises.too_often(request, executed))

    async def _close(self) -> None:
        self._account()
        pods = list(self._world.pods.values())
        stops = [pod.life.run(spawn, pod.daemon.stop(1.0), "stop") for pod in pods]
        await asyncio.wait(stops, timeout=_STOP_S)
        await asyncio.sleep(_GRACE_S)
        for pod in pods:
            if left := clock.tasks_of(pod.life):
                self.broken(f"I10: {pod.instance_id} has stopped and leaves {left}")

    def _account(self) -> None:
        outcome, world = self._outcome, self._world
        ledger = world.ledger
        outcome.loads, outcome.load_s = ledger.loads.total(), ledger.load_s
        outcome.evictions, outcome.hops = ledger.unloads, world.hops
        outcome.struck = +world.struck
        outcome.virtual_s = self._loop.time() - self._began_s
        self.note(f"{outcome.loads} loads {outcome.evictions} unloads {outcome.hops} hops")
        outcome.digest = self._digest.hexdigest()


class _Joined(Parts):
    """The parts of a world, with somebody who looks at each daemon that is built."""

    def __init__(self, parts: Parts, game: _Game) -> None:
        self._parts = parts
        self._game = game
        self.bounds, self.daemon = parts.bounds, parts.daemon
        self.link, self.mirror = parts.link, parts.mirror

    def built(self, pod: Pod) -> None:
        self._parts.built(pod)
        self._game.checker.joined(pod)
        self._game.note(f"{pod.instance_id} is made")


def _at(event: Deed | Fault) -> float:
    return event.at_s
