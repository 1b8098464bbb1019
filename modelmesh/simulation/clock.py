"""An event loop whose time jumps to the next timer as soon as nothing is left to do.

An hour without work passes at once; the order of everything depends on nothing but the program
and its seed. It has no sockets, threads or processes: what waits for one would wait for ever, so
an idle loop without any timer is an error (`Stuck`), not a hang.

Whatever runs belongs to a `Life` (a daemon's) or to none (the world's): contexts carry it to every
task, callback and timer. A life that stands still is a process that was stopped or killed: what it
had planned waits, until it goes on or for ever, and nobody has to find and cancel its tasks.
"""

import asyncio
import heapq
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, Final, TypeVar
from weakref import WeakSet

T = TypeVar("T")

START_S: Final = 1_000_000.0

_LIFE: ContextVar["Life | None"] = ContextVar("life", default=None)
# Cancelled timers are thrown away together, when there are many (asyncio's own rule).
_MOST_CANCELLED: Final = 100


class Stuck(RuntimeError):
    """Nothing can ever happen again in this loop."""


class Life:
    """What runs as one process. `standing`: it does not, now (stopped) or any more (dead)."""

    __slots__ = ("_context", "_loop", "dead", "held", "name", "standing", "tasks")

    def __init__(self, name: str) -> None:
        self.name = name
        self.standing = False
        self.dead = False
        self.held: list[asyncio.Handle] = []
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        self._loop = loop
        self._context = copy_context()
        self._context.run(_LIFE.set, self)
        loop.lives.append(self)

    def run(self, work: Callable[..., T], *args: Any) -> T:
        """Do it now, as this process."""
        return self._context.copy().run(work, *args)

    def post(self, work: Callable[..., object], *args: Any) -> None:
        """Do it as this process: now if it runs, else when it goes on."""
        if self.standing:
            self._loop.call_soon(work, *args, context=self._context.copy())
        else:
            self._context.copy().run(work, *args)

    def stand(self) -> None:
        """From now on nothing of it happens."""
        self.standing = True

    def die(self) -> None:
        self.standing = self.dead = True

    def go_on(self) -> int:
        """What was held happens now, in its order; how much that was."""
        self.standing = False
        return self._loop.release(self)


def life_name() -> str:
    """Who is at work ("": the world)."""
    life = _LIFE.get()
    return life.name if life is not None else ""


def tasks_of(life: Life) -> list[str]:
    """The names of its tasks that have not ended."""
    return sorted(task.get_name() for task in life.tasks if not task.done())


class _Nothing(selectors.BaseSelector):
    """A selector that watches nothing."""

    def __init__(self) -> None:
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._keys[fileobj] = selectors.SelectorKey(fileobj, 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> dict[Any, selectors.SelectorKey]:
        return self._keys


class SimulatedLoop(asyncio.SelectorEventLoop):
    """The loop. `time()` is virtual seconds; `turns` counts its steps.

    What is on the path of every callback is written anew: a seed spends most of its time here.
    """

    _ready: Any  # asyncio's own queue of what runs in this turn

    def __init__(self) -> None:
        super().__init__(_Nothing())
        self._now_s = START_S
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []  # a heap; first come first
        self._set = 0  # timers, ever
        self._cancelled = 0  # of those in the heap
        self.turns = 0
        self.lives: list[Life] = []

    def time(self) -> float:
        return self._now_s

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> asyncio.Task[Any]:
        task = super().create_task(coro, name=name, context=context)
        life = _LIFE.get() if context is None else context.get(_LIFE)
        if life is not None:
            life.tasks.add(task)
        return task

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._set += 1
        heapq.heappush(self._timers, (when, self._set, timer))
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """asyncio tells of every timer that is cancelled while it is set."""
        if handle._scheduled:  # type: ignore[attr-defined]
            self._cancelled += 1

    def release(self, life: Life) -> int:
        held, life.held = life.held, []
        self._ready.extend(held)
        return len(held)

    def end(self) -> None:
        """Everybody goes on, to be cancelled."""
        for life in self.lives:
            life.standing = False
            self.release(life)

    def _run_once(self) -> None:
        """One turn: asyncio's, but without a selector, and aware of lives that stand still."""
        self.turns += 1
        ready = self._ready
        self._gather_due(ready)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            life = handle._context.get(_LIFE)
            if life is not None and life.standing:
                life.held.append(handle)
            else:
                handle._run()

    def _gather_due(self, ready: Any) -> None:
        timers = self._timers
        if self._cancelled > _MOST_CANCELLED and 2 * self._cancelled > len(timers):
            timers[:] = [timer for timer in timers if not timer[2].cancelled()]
            heapq.heapify(timers)
            self._cancelled = 0
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
            self._cancelled -= 1
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not timers:
                raise Stuck("every task waits for something that no timer will bring")
            self._now_s = max(self._now_s, timers[0][0])
        now_s = self._now_s
        while timers and timers[0][0] <= now_s:
            timer = heapq.heappop(timers)[2]
            timer._scheduled = False  # type: ignore[attr-defined]
            if timer.cancelled():
                self._cancelled -= 1
            else:
                ready.append(timer)


class WorldsOwn:
    """The loop for what belongs to nobody's process (a network, a store): its timers go on though
    whoever caused them has died."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._context = Context()
        self.time = loop.time

    def call_soon(self, work: Callable[..., object], *args: Any) -> asyncio.Handle:
        return self._loop.call_soon(work, *args, context=self._context)

    def call_later(self, delay_s: float, work: Callable[..., object], *args: Any) -> Any:
        return self._loop.call_later(delay_s, work, *args, context=self._context)

    def call_at(self, when: float, work: Callable[..., object], *args: Any) -> Any:
        return self._loop.call_at(when, work, *args, context=self._context)

    def run(self, work: Callable[..., T], *args: Any) -> T:
        return Context().run(work, *args)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to the end in virtual time."""

    async def whole() -> T:
        try:
            return await main
        finally:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, SimulatedLoop)
            loop.end()

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(whole())
