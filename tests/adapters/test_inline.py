"""The inline tier: the same core on an event loop, waits included."""

import asyncio
from collections.abc import Callable
from functools import partial

from modelmesh.pb import model_runtime_pb2
from modelmesh.wire import kinds
from modelmesh.wire.awaiting import ask
from modelmesh.wire.loopback import LoopbackCaller
from runtime_adapters.inline import InlineHost
from tests.adapters.support import infer_body, inferred, load_body, named


async def test_it_serves_on_the_callers_loop() -> None:
    loop = asyncio.get_running_loop()
    caller = LoopbackCaller(InlineHost("", {}, loop.call_later, loop.time))
    key = {"size_bytes": 7, "load_s": 0.05, "predict_s": 0.05}
    loaded = await ask(caller, kinds.LOAD_MODEL, load_body("m", "dummy", "", **key))
    assert model_runtime_pb2.LoadModelResponse.FromString(bytes(loaded)).sizeInBytes == 7
    begun = loop.time()
    answers = await asyncio.gather(
        *(ask(caller, kinds.MODEL_INFER, infer_body([[i]]), named("m")) for i in range(4))
    )
    assert [inferred(answer)["sum"] for answer in answers] == [[0.0], [1.0], [2.0], [3.0]]
    assert loop.time() - begun >= 0.05
    await caller.close()


async def test_it_tells_what_it_took_to_decode_and_to_encode_once_for_each_call() -> None:
    loop = asyncio.get_running_loop()
    told: list[tuple[str, str]] = []

    def tells(part: str) -> Callable[[str, float], None]:
        def tell(model_id: str, took_s: float) -> None:
            assert 0 <= took_s < 60
            told.append((part, model_id))

        return tell

    host = InlineHost(
        "", {}, loop.call_later, loop.time, was_read=tells("read"), was_written=tells("written")
    )
    caller = LoopbackCaller(host)
    await ask(caller, kinds.LOAD_MODEL, load_body("m", "dummy", ""))
    assert not told
    await asyncio.gather(
        *(ask(caller, kinds.MODEL_INFER, infer_body([[i]]), named("m")) for i in range(3))
    )
    assert sorted(told) == [("read", "m")] * 3 + [("written", "m")] * 3
    await caller.close()


def ten_turns_later(_delay_s: float, callback: Callable[[], None], turns: int = 10) -> None:
    """A pause of the loop's shortest timer, which lasts some turns, and as many on any machine."""
    again = partial(ten_turns_later, _delay_s, callback, turns - 1)
    asyncio.get_running_loop().call_soon(again if turns else callback)


async def test_calls_that_come_one_a_turn_are_gathered_while_several_callers_are_at_work() -> None:
    loop = asyncio.get_running_loop()
    caller = LoopbackCaller(InlineHost("", {}, ten_turns_later, loop.time))
    await ask(caller, kinds.LOAD_MODEL, load_body("m", "dummy", ""))

    async def infer(turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        body = infer_body([[1.0]], counters=True)
        answer = await ask(caller, kinds.MODEL_INFER, body, named("m"))
        return int(inferred(answer)["predicts"][0])

    assert await infer(0) == 1
    first, second = await asyncio.gather(infer(0), infer(0))
    assert first == second == 2, "together, so several are at work"
    assert await asyncio.gather(*(infer(3 * n) for n in range(8))) == [3] * 8
    await caller.close()
