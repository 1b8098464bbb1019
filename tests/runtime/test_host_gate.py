"""A real host and its gate: what the daemon takes away never starts, and what comes later does."""

import asyncio
import json
from pathlib import Path

from modelmesh.runtime import client, host
from modelmesh.runtime.blame import Ran
from modelmesh.runtime.door import LoadRequest
from modelmesh.runtime.host import Host, named
from modelmesh.runtime.zygote import ZygoteClient, ZygoteConfig
from modelmesh.wire import kinds
from modelmesh.wire.awaiting import FutureReply
from modelmesh.wire.transport import Call
from tests.runtime.support import HOSTILE, request
from tests.runtime.waiting import until


async def _load(one: Host, model_id: str, **key: object) -> None:
    model = LoadRequest(model_id, "hostile", "", json.dumps(key))
    await client.load(one.link, model, metadata=named(model_id))


def _begin(one: Host, model_id: str, number: float) -> FutureReply:
    reply = FutureReply()
    one.link.start(Call(kinds.MODEL_INFER, request(number), reply, named(model_id)))
    return reply


async def test_calls_that_were_taken_away_never_start(tmp_path: Path) -> None:
    zygote = ZygoteClient(ZygoteConfig(runtimes=HOSTILE))
    await zygote.start()
    ended: list[Host] = []
    one = await host.spawn(zygote, 1, 0, lambda dead, _: ended.append(dead), lambda *told: None)
    log, gate = tmp_path / "log", tmp_path / "gate"
    try:
        await _load(one, "slow", gate=str(gate))
        await _load(one, "logged", log=str(log))
        slow = _begin(one, "slow", 0)
        await until(lambda: one.what(one.running()) == Ran(kinds.MODEL_INFER, "slow"))
        taken = [_begin(one, "logged", number) for number in range(5)]
        await asyncio.sleep(0)  # they leave with this turn of the loop
        assert one.what(one.shut()) == Ran(kinds.MODEL_INFER, "slow")
        later = _begin(one, "logged", 99)
        gate.touch()
        await asyncio.gather(slow.future, later.future)
        assert log.read_text().split() == ["99"]
        assert not any(reply.future.done() for reply in taken)
        for reply in taken:
            reply.leave()
    finally:
        await one.end(5.0)
        await zygote.close()
    assert ended == [one]
