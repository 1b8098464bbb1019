"""A network in memory: for tests, and for fleets that are simulated.

It behaves as TCP with gRPC on it does, as far as callers can tell: what one daemon sends another
arrives in order or the connection breaks; packets that are swallowed are held, and arrive once the
way is free; a connection that is silent for too long is given up at both ends. Faults are set by
address, `struck` counts how often each one bit. Time is the loop's, chance the rng's: the same
program and seed give the same run.

Bodies are handed on as they are. It must never be told who is a peer of whom.
"""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from typing import Final

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.peers.members import Members
from modelmesh.peers.suspicion import DEFAULT_TIMES, Times
from modelmesh.wire.replies import OpenReply, unavailable
from modelmesh.wire.transport import NO_DEADLINE, NO_METADATA, Body, Call, Handler, Metadata
from modelmesh.wire.turns import Turn

Act = Callable[[], None]

CONNECT_TIMEOUT_S: Final = 0.3
SILENCE_S: Final = 13.0  # keepalive's period and patience
_TOO_LATE = Failure(Code.DEADLINE_EXCEEDED, "deadline exceeded", reason=Reason.DEADLINE)
_REFUSED = Failure(Code.UNAVAILABLE, "connection refused", Fault.PEER, executed=False)


class MemoryNetwork:
    """Every place of a fleet, and what is wrong between them. Make it on its loop."""

    def __init__(
        self,
        rng: random.Random,
        *,
        delay_s: float = 0.0002,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.struck: Counter[str] = Counter()
        self.connect_timeout_s = connect_timeout_s
        self.silence_s = silence_s
        self.loop = asyncio.get_running_loop()
        self._rng = rng
        self._delay_s = delay_s
        self._turns: dict[str, Turn] = {}
        self._connections: dict[_Connection, None] = {}
        self._slow: dict[tuple[str, str], tuple[float, float]] = {}
        self._blocked: set[tuple[str, str]] = set()
        self._paused: dict[str, list[Act]] = {}  # and what it will find when it wakes
        self._cut_answers: dict[tuple[str, str], float] = {}  # how many still

    # --- what daemons do

    def listen(self, address: str, handler: Handler) -> None:
        """Calls to this address reach the handler, those of one turn together."""
        self._turns[address] = Turn(handler, self.loop.call_soon)

    def unlisten(self, address: str) -> None:
        """New connections are refused; those that are open stay."""
        self._turns.pop(address, None)

    def drain(self, address: str) -> None:
        """As a server that stops: new connections are refused, and who has one is told to start
        nothing new on it. What runs, or crosses the word on its way, is answered as ever."""
        self.unlisten(address)
        for connection in self._to(address):
            connection.tell_to_leave()

    def drained(self, address: str) -> bool:
        """Whether all have been told, and nobody waits for an answer."""
        return all(known.leaving and not known.open for known in self._to(address))

    def link(self, source: str, target: str) -> "MemoryLink":
        """A `Caller` from one address to another."""
        return MemoryLink(self, source, target)

    def peers(self, instance_id: str, address: str, times: Times = DEFAULT_TIMES) -> Members:
        """The Peers door of the daemon at `address`."""
        return Members(instance_id, partial(self.link, address), self.loop.time, times)

    def connections(self, one: str, other: str) -> int:
        """How many connections are open between the two."""
        ends = {one, other}
        return sum({known.source, known.target} == ends for known in self._connections)

    # --- faults

    def delay(self, source: str, target: str, delay_s: float, jitter_s: float = 0.0) -> None:
        """What `source` sends to `target` takes so long, and up to `jitter_s` more."""
        self._slow[source, target] = (delay_s, jitter_s)

    def block(self, source: str, target: str) -> None:
        """What `source` sends to `target` is swallowed (and sent again once the way is free)."""
        self._blocked.add((source, target))

    def unblock(self, source: str, target: str) -> None:
        self._blocked.discard((source, target))
        self._release()

    def partition(self, one: str, other: str) -> None:
        """Nothing passes, either way."""
        self.block(one, other)
        self.block(other, one)

    def heal(self, one: str, other: str) -> None:
        self.unblock(one, other)
        self.unblock(other, one)

    def pause(self, address: str) -> None:
        """The daemon stands still: it takes nothing and says nothing."""
        self._paused.setdefault(address, [])

    def resume(self, address: str) -> None:
        for act in self._paused.pop(address, []):
            act()
        self._release()

    def cut(self, one: str, other: str) -> None:
        """Connections between the two break now."""
        for connection in list(self._connections):
            if {connection.source, connection.target} == {one, other}:
                self.struck["cut"] += 1
                connection.lose()

    def freeze(self, one: str, other: str) -> None:
        """Connections that are open are dead for good, and nobody says so: new ones work."""
        for connection in self._connections:
            if {connection.source, connection.target} == {one, other}:
                self.struck["freeze"] += 1
                connection.forth.frozen = connection.back.frozen = True

    def cut_answers(self, source: str, target: str, count: float = 1) -> None:
        """The next answers that `source` gives to `target` break their connection instead."""
        self._cut_answers[source, target] = self._cut_answers.get((source, target), 0) + count

    def pass_answers(self, source: str, target: str) -> None:
        """No more of them do."""
        self._cut_answers.pop((source, target), None)

    def crash(self, address: str) -> None:
        """The daemon is dead: nobody listens, its connections break, it hears no answer."""
        self.unlisten(address)
        self._paused.pop(address, None)
        for connection in list(self._connections):
            if address in (connection.source, connection.target):
                self.struck["crash"] += 1
                connection.lose(dead=address)
        self._release()

    # --- what connections ask

    def passes(self, source: str, target: str) -> bool:
        """Whether what is sent now arrives."""
        return (
            (source, target) not in self._blocked
            and source not in self._paused
            and target not in self._paused
        )

    def at(self, address: str, act: Act) -> None:
        """Do it there: now, or when the daemon is awake."""
        if address in self._paused:
            self._paused[address].append(act)
        else:
            act()

    def listener(self, address: str) -> Turn | None:
        return self._turns.get(address)

    def takes_s(self, source: str, target: str) -> float:
        delay_s, jitter_s = self._slow.get((source, target), (self._delay_s, 0.0))
        return delay_s + jitter_s * self._rng.random() if jitter_s else delay_s

    def answer_is_cut(self, source: str, target: str) -> bool:
        if not self._cut_answers.get((source, target)):
            return False
        self._cut_answers[source, target] -= 1
        self.struck["cut_answers"] += 1
        return True

    def opened(self, connection: "_Connection") -> None:
        self._connections[connection] = None

    def closed(self, connection: "_Connection") -> None:
        self._connections.pop(connection, None)

    def _release(self) -> None:
        for connection in list(self._connections):
            connection.release()

    def _to(self, address: str) -> list["_Connection"]:
        return [known for known in self._connections if known.target == address]


class _Pipe:
    """One direction of a connection: in order, held while the way is blocked.

    One timer, for the first that is under way: a loop does not keep timers of one time in order.
    """

    __slots__ = (
        "_arriving", "_held", "_network", "_timer", "_under_way", "_way", "broken",
        "frozen", "silent_since",
    )  # fmt: skip

    def __init__(self, network: MemoryNetwork, source: str, target: str) -> None:
        self._network = network
        self._way = (source, target)
        self._under_way: deque[tuple[float, Act]] = deque()  # and when it is due
        self._timer: asyncio.TimerHandle | None = None
        self._arriving = False
        self._held: list[Act] = []
        self.broken = False
        self.frozen = False
        self.silent_since: float | None = None

    def send(self, act: Act) -> None:
        under_way = self._under_way
        if not (under_way or self._arriving) and not self._free():
            self._hold(act)
            return
        due = self._network.loop.time() + self._network.takes_s(*self._way)
        under_way.append((max(due, under_way[-1][0]) if under_way else due, act))
        self._arm()

    def release(self) -> None:
        """The way may be free again: what was held goes first."""
        if self._held and not self.frozen and self._network.passes(*self._way):
            acts = [*self._held, *(act for _, act in self._under_way)]
            self._held.clear()
            self._under_way.clear()
            self.silent_since = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for act in acts:
                self.send(act)

    def _free(self) -> bool:
        return not (self._held or self.frozen) and self._network.passes(*self._way)

    def _arm(self) -> None:
        if self._under_way and self._timer is None and not self._arriving:
            self._timer = self._network.loop.call_at(self._under_way[0][0], self._arrive)

    def _arrive(self) -> None:
        self._timer = None
        self._arriving = True
        due = self._under_way[0][0]
        while self._under_way and self._under_way[0][0] <= due and not self.broken:
            act = self._under_way.popleft()[1]
            if self._free():
                act()
            else:
                self._hold(act)
        self._arriving = False
        if not self.broken:
            self._arm()

    def _hold(self, act: Act) -> None:
        self._held.append(act)
        self._network.struck["held"] += 1
        if self.silent_since is None:
            self.silent_since = self._network.loop.time()


class _Connection:
    """An established connection and the calls on it."""

    def __init__(self, network: MemoryNetwork, source: str, target: str, turn: Turn) -> None:
        self.source = source
        self.target = target
        self.network = network
        self.forth = _Pipe(network, source, target)
        self.back = _Pipe(network, target, source)
        self.open: dict[_Sent, None] = {}
        self.turn = turn
        self.lost = False
        self.leaving = False  # its caller knows that nothing new may start on it
        self._watch: asyncio.TimerHandle | None = None
        network.opened(self)

    def send(self, sent: "_Sent") -> None:
        self.open[sent] = None
        self.pass_on(self.forth, sent.arrive)

    def tell_to_leave(self) -> None:
        self.pass_on(self.back, self._leaves)

    def _leaves(self) -> None:
        self.leaving = True

    def pass_on(self, pipe: _Pipe, act: Act) -> None:
        pipe.send(act)
        if self._watch is None:
            self._watch = self.network.loop.call_later(self.network.silence_s, self._look)

    def release(self) -> None:
        self.forth.release()
        self.back.release()

    def _look(self) -> None:
        """Keepalive: give up what has been silent for too long."""
        self._watch = None
        silent = [at for at in (self.forth.silent_since, self.back.silent_since) if at is not None]
        if not silent:
            if self.open:
                self._watch = self.network.loop.call_later(self.network.silence_s, self._look)
            return
        left_s = min(silent) + self.network.silence_s - self.network.loop.time()
        if left_s > 0:
            self._watch = self.network.loop.call_later(left_s, self._look)
        else:
            self.network.struck["silence"] += 1
            self.lose()

    def lose(self, dead: str = "") -> None:
        """It breaks: callers hear so, callees see their callers leave. The dead hear nothing."""
        if self.lost:
            return
        self.lost = self.forth.broken = self.back.broken = True
        self.network.closed(self)
        if self._watch is not None:
            self._watch.cancel()
        for sent in list(self.open):
            if dead != self.target:
                self.network.at(self.target, sent.received.leave)
            if dead == self.source:
                sent.forget()
            else:
                self.network.at(self.source, partial(sent.finish, unavailable(executed=True)))


class MemoryLink:
    """A `Caller` over the network: connects when it must, as a gRPC channel does."""

    def __init__(self, network: MemoryNetwork, source: str, target: str) -> None:
        self._network = network
        self._source = source
        self._target = target
        self._connection: _Connection | None = None
        self._waiting: list[_Sent] = []
        self._closed = False

    def start(self, call: Call) -> None:
        if call.reply.gone:
            return
        sent = _Sent(self._network.loop, call)
        if self._closed:
            sent.finish(unavailable(executed=False))
        elif (made := self._connection) is not None and not (made.lost or made.leaving):
            sent.begin(made)
        else:
            self._waiting.append(sent)
            if len(self._waiting) == 1:
                self._connect()

    async def close(self) -> None:
        self._closed = True
        self._fail(unavailable(executed=False))
        if self._connection is not None:
            self._connection.lose()

    def _connect(self) -> None:
        network, there, back = self._network, self._source, self._target
        taken_s = network.takes_s(there, back) + network.takes_s(back, there)
        if taken_s >= network.connect_timeout_s:
            network.loop.call_later(network.connect_timeout_s, self._give_up)
        else:
            network.loop.call_later(taken_s, self._shake_hands, taken_s)

    def _shake_hands(self, taken_s: float) -> None:
        network, source, target = self._network, self._source, self._target
        if not (network.passes(source, target) and network.passes(target, source)):
            network.loop.call_later(network.connect_timeout_s - taken_s, self._give_up)
            return
        turn = network.listener(target)
        if turn is None:
            network.struck["refused"] += 1
            self._fail(_REFUSED)
        elif not self._closed:
            self._connection = _Connection(network, source, target, turn)
            waiting, self._waiting = self._waiting, []
            for sent in waiting:
                sent.begin(self._connection)

    def _give_up(self) -> None:
        if self._waiting:
            self._network.struck["no_connection"] += 1
        self._fail(_REFUSED)

    def _fail(self, failure: Failure) -> None:
        waiting, self._waiting = self._waiting, []
        for sent in waiting:
            sent.finish(failure)


class _Sent:
    """The caller's end of one call; `received` is the callee's."""

    __slots__ = ("_call", "_connection", "_ended", "_timer", "received")

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Call) -> None:
        self._call = call
        self._connection: _Connection | None = None
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None
        self.received = _Received(self)
        if call.deadline != NO_DEADLINE:
            self._timer = loop.call_at(call.deadline, self._too_late)
        call.reply.when_gone(self._left)

    def begin(self, connection: _Connection) -> None:
        if not self._ended:
            self._connection = connection
            connection.send(self)

    def arrive(self) -> None:
        """The request is at the callee."""
        received, call = self.received, self._call
        if not received.gone and self._connection is not None:
            self._connection.turn.add(
                Call(call.kind, call.body, received, call.metadata, call.deadline)
            )

    def answered(self, act: Act) -> None:
        """The callee has said its last word: `act` tells it to the caller, if it gets there."""
        connection = self._connection
        if connection is None or connection.lost:
            return
        if connection.network.answer_is_cut(connection.target, connection.source):
            connection.lose()
        else:
            connection.pass_on(connection.back, act)

    def answer(self, body: Body, metadata: Metadata) -> None:
        if self._end():
            self._call.reply.answer(body, metadata)

    def finish(self, failure: Failure | None, metadata: Metadata = NO_METADATA) -> None:
        if self._end():
            self._call.reply.finish(failure, metadata)

    def forget(self) -> None:
        """Its caller is dead."""
        self._end()

    def _too_late(self) -> None:
        self._left()
        self._call.reply.finish(_TOO_LATE)

    def _left(self) -> None:
        if self._end() and self._connection is not None:
            self._connection.pass_on(self._connection.forth, self.received.leave)

    def _end(self) -> bool:
        if self._ended:
            return False
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None:
            self._connection.open.pop(self, None)
        return True


class _Received(OpenReply):
    """The callee's reply: what it says travels back."""

    __slots__ = ("_sent",)

    def __init__(self, sent: _Sent) -> None:
        super().__init__()
        self._sent = sent

    @property
    def slow(self) -> bool:
        return False

    def answer(self, body: Body, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.end()
            self._sent.answered(partial(self._sent.answer, body, metadata))

    def send(self, message: Body) -> None:
        """Calls between daemons are unary; a stream's messages have nowhere to go."""

    def finish(self, failure: Failure | None = None, metadata: Metadata = NO_METADATA) -> None:
        if not self.gone:
            self.end()
            self._sent.answered(partial(self._sent.finish, failure, metadata))

    def when_writable(self, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(callback)
