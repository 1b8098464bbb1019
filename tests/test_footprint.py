"""What a daemon weighs: its own process, and each model that is only registered."""

import asyncio
import gc
import os
import subprocess
import sys
import tracemalloc

from modelmesh.domain.records import ModelRecord
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.models import Models

MODELS = 10_000
NUMERIC = ("numpy", "scipy", "sklearn", "pandas", "joblib")

DAEMON = f"""
import asyncio, os, sys
from modelmesh.app import App
from modelmesh.settings import Settings

async def main():
    app = App(Settings(grpc_port=0, rest_port=0, metrics="disabled", probe_port="NONE",
                       kv_store="memory", shared_hosts=1))
    await app.start()
    with open("/proc/self/status") as status:
        [rss] = [line.split()[1] for line in status if line.startswith("VmRSS")]
    with open("/proc/self/maps") as maps:
        mapped = maps.read()
    numeric = [name for name in {NUMERIC!r} if name in sys.modules or f"/{{name}}/" in mapped]
    print("weighs", rss, numeric)
    await app.stop()

asyncio.run(main())
"""


def test_the_daemons_process_is_small_and_without_the_numeric_stack() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", DAEMON], capture_output=True, text=True, env=_environment()
    )
    assert ran.returncode == 0, ran.stderr
    [said] = [line for line in ran.stdout.splitlines() if line.startswith("weighs ")]
    _, rss_kib, numeric = said.split(" ", 2)
    assert numeric == "[]"
    print(f"an idle daemon: {int(rss_kib) / 1024:.1f} MiB")
    assert int(rss_kib) * 1024 < 80_000_000


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MM_")}


async def test_a_registered_model_is_lighter_than_the_originals() -> None:
    """ModelMesh's heap holds 560 bytes for each; the names themselves count here too."""
    models = Models(MemoryStore())
    gc.collect()
    tracemalloc.start()
    try:
        for first in range(0, MODELS, 1000):
            await asyncio.gather(
                *(
                    models.register(
                        f"model-{number:06d}",
                        ModelRecord("sklearn", path=f"/models/iris/{number:06d}/model.joblib"),
                    )
                    for number in range(first, first + 1000)
                )
            )
        gc.collect()
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(list(models.names())) == MODELS
    print(f"a registered model: {held_bytes / MODELS:.0f} bytes")
    assert held_bytes / MODELS <= 560
