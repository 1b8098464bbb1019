"""How much memory a simulated fleet takes: 50 daemons that know 20,000 models, in one process.

    python -m benchmarks.simulated_memory [--pods 50] [--models 20000]

Records are shared: fifty tables hold the same entries by reference, so what grows with the number
of daemons is their dictionaries. Prints one line of JSON; fails above the limit.
"""

import argparse
import asyncio
import json
import resource
import sys
import time

from modelmesh.registry.store import MODELS
from modelmesh.simulation import clock, watching
from modelmesh.simulation.world import World

LIMIT_BYTES = 4 * 1024**3
_BULK = 1000


async def _fleet(pods: int, models: int, asked: int) -> dict[str, float]:
    world = World(1, capacity_bytes=10_000_000)
    began = time.perf_counter()
    first = "p0"
    await world.start(first)
    for start in range(0, models, _BULK):
        names = range(start, min(start + _BULK, models))
        await world.register(first, *((f"model-{n:06d}", "") for n in names))
    for n in range(1, pods):
        if await world.start(f"p{n}") is None:
            raise RuntimeError(f"p{n} does not start: {world.why_not_started}")
    for name, pod in world.pods.items():
        if len(pod.mirror.table(MODELS)) != models:
            raise RuntimeError(f"{name} does not know every model")
    ready_s = time.perf_counter() - began
    step = max(models // asked, 1)
    answers = await asyncio.gather(
        *(world.ask(f"model-{n:06d}", f"p{n % pods}") for n in range(0, models, step))
    )
    wrong = [answer for answer in answers if not isinstance(answer, bytes)]
    if wrong:
        raise RuntimeError(f"{len(wrong)} of {len(answers)} requests failed: {wrong[0]}")
    return {"ready_s": round(ready_s, 1), "requests": len(answers), "hops": world.hops}


def _fail(what: str) -> None:
    raise RuntimeError(what)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pods", type=int, default=50)
    parser.add_argument("--models", type=int, default=20_000)
    parser.add_argument("--asked", type=int, default=500)
    args = parser.parse_args()
    with watching.watching(_fail, None):
        figures = clock.run(_fleet(args.pods, args.models, args.asked))
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures |= {"pods": args.pods, "models": args.models, "peak_mib": peak_bytes // 1024**2}
    print(json.dumps(figures))
    return 0 if peak_bytes < LIMIT_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
