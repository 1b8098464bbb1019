"""What a model weighs that is only registered."""

import asyncio
import gc
import tracemalloc

from modelmesh.domain.records import ModelRecord
from modelmesh.registry.memory import MemoryStore
from modelmesh.registry.models import Models

MODELS = 10_000


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
