"""The doors of simulated daemons keep what the real ones promise."""

import asyncio

from modelmesh.errors import Failure
from modelmesh.observe.tasks import spawn
from modelmesh.simulation.clock import tasks_of
from modelmesh.simulation.world import World
from tests.simulation.test_world import fleet, key


def test_a_runtime_that_is_closed_runs_no_call_whose_caller_has_left() -> None:
    """Seed 262: real hosts end with their runtime; what they run for nobody ends with them."""

    async def scenario(world: World) -> None:
        await world.register("a", ("m", key(predict_s=2.0)))
        assert await world.ask("m", "a") == b"m"
        assert isinstance(await world.ask("m", "a", timeout_s=0.1), Failure)
        pod = world.pods["a"]
        assert "predict" in tasks_of(pod.life), "the call has ended with its caller"
        await pod.life.run(spawn, pod.daemon.stop(1.0), "stop")
        await asyncio.sleep(0.25)
        assert tasks_of(pod.life) == []
        world.crash("a")

    fleet(scenario, pods="a")
