"""Whatever goes wrong, and in whatever order: every call ends once, and the peers come back."""

import asyncio
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from modelmesh.domain.instances import InstanceRecord
from modelmesh.wire.transport import NO_DEADLINE, Call
from tests.peers.worlds import Answer, Callee, MemoryWorld, World, elapse, run_in_memory, until

FAULTS = (
    "crash", "restart", "block there", "block back", "unblock", "cut", "freeze", "pause", "resume",
    "cut answers", "deaf", "hears",
)  # fmt: skip
OTHERS = ("send", "send late", "leave", "answer", "renew", "forget", "know", "wait", "wait long")
NAMES = st.sampled_from("bc")
STEPS = st.lists(st.tuples(st.sampled_from(FAULTS + OTHERS), NAMES), min_size=5, max_size=60)


class Scene:
    """Peers b and c, who keep calls until they are told to answer."""

    def __init__(self, world: World) -> None:
        assert isinstance(world, MemoryWorld)
        self.world = world
        self.callees = {name: Callee(name, then=self._keep) for name in "bc"}
        self.records: dict[str, InstanceRecord] = {}
        self.known: dict[str, InstanceRecord] = {}
        self.kept: list[Call] = []
        self.answers: list[Answer] = []
        self.left: list[Answer] = []
        self.told: Counter[int] = Counter()
        self.keeping = True

    def _keep(self, call: Call) -> None:
        if self.keeping:
            self.kept.append(call)
        else:
            call.reply.answer(b"")

    async def start(self) -> None:
        for name, callee in self.callees.items():
            self.records[name] = await self.world.add(callee)
        self.know("b", "c")

    def know(self, *names: str) -> None:
        self.known |= {name: self.records[name] for name in names}
        self.world.peers.update(self.known)

    def send(self, name: str, deadline: float = NO_DEADLINE) -> None:
        number = len(self.answers)

        def told() -> None:
            self.told[number] += 1

        self.answers.append(self.world.send(name, on_suspect=told, deadline=deadline))

    async def do(self, step: str, name: str) -> None:
        world, callee, now = self.world, self.callees[name], asyncio.get_running_loop().time()
        address = self.records[name].address
        if step == "send":
            self.send(name)
        elif step == "send late":
            self.send(name, deadline=now + 0.5)
        elif step == "leave" and self.answers:
            answer = self.answers[len(self.answers) // 2]
            if not answer.gone:
                self.left.append(answer)
            answer.leave()
        elif step == "answer" and self.kept:
            self.kept.pop(0).reply.answer(b"")
        elif step == "renew":
            self.records[name] = replace(self.records[name], start_ms=int(now * 1000))
            self.know(name)
        elif step == "know":
            self.know(name)
        elif step == "forget":
            self.known.pop(name, None)
            world.peers.update(self.known)
        elif step.startswith("wait"):
            await elapse(0.1 if step == "wait" else 1.5)
        elif step in ("crash", "restart"):
            await getattr(world, step)(name)
        elif step.startswith("block"):
            world.block(name, there=step == "block there", back=step == "block back")
        elif step in ("unblock", "cut", "freeze"):
            getattr(world, step)(name)
        elif step in ("pause", "resume"):
            getattr(world.network, step)(address)
        elif step == "cut answers":
            world.network.cut_answers(address, "at-a")
        elif step in ("deaf", "hears"):
            callee.deaf = step == "deaf"

    async def heal(self) -> None:
        """Everything works from now on, and what was kept is answered."""
        self.keeping = False
        self.know("b", "c")
        for name in "bc":
            await self.world.restart(name)
            for step in ("unblock", "resume", "hears"):
                await self.do(step, name)
        for call in self.kept:
            call.reply.answer(b"")


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_every_call_ends_once_and_every_peer_comes_back(steps: list[tuple[str, str]]) -> None:
    async def act(world: World) -> None:
        scene = Scene(world)
        await scene.start()
        for step, name in steps:
            await scene.do(step, name)
        await scene.heal()
        await until(lambda: all(peer.answers for peer in world.peers.all()), 60)
        await until(lambda: all(answer.gone for answer in scene.answers), 60)
        await elapse(60)
        for answer in scene.answers:
            assert len(answer.ends) == (0 if answer in scene.left else 1)
        assert all(count == 1 for count in scene.told.values())
        assert {peer.instance_id: peer.in_flight for peer in world.peers.all()} == {"b": 0, "c": 0}
        assert all(call.reply.gone for call in scene.kept)
        for name in "bc":  # idle links may be frozen still, and answers may still be cut
            asked = [await world.peers.ask_health(name) for _ in range(len(steps) + 3)]
            assert asked[-1]

    run_in_memory(act)
