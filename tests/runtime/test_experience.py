"""What is remembered of model files, and what makes them others."""

import os
from pathlib import Path

from modelmesh.policy.tiering import Measured, Tier, TierLimits
from modelmesh.runtime.door import LoadRequest
from modelmesh.runtime.experience import Experience

BYTES = 2 << 20


def _request(path: Path, key: str = "") -> LoadRequest:
    return LoadRequest("m", "sklearn", str(path), key, BYTES)


async def test_files_are_known_again_until_they_change(tmp_path: Path) -> None:
    experience = Experience(TierLimits(wish=Tier.AUTO))
    path = tmp_path / "model.pkl"
    path.write_bytes(b"a" * 10)
    digest = await experience.digest(_request(path))
    assert digest
    experience.saw(digest, Measured(0.01, 1000))
    assert experience.measured(await experience.digest(_request(path))) == Measured(0.01, 1000)
    assert await experience.digest(_request(path, key="other")) != digest
    os.utime(path, ns=(1, 1))
    assert await experience.digest(_request(path)) != digest


async def test_a_model_is_never_opened_for_it(tmp_path: Path) -> None:
    fifo = tmp_path / "model.pkl"
    os.mkfifo(fifo)  # to open it would hang
    assert await Experience(TierLimits(wish=Tier.AUTO)).digest(_request(fifo))


async def test_small_and_missing_files_need_no_look(tmp_path: Path) -> None:
    experience = Experience(TierLimits(wish=Tier.AUTO))
    assert await experience.digest(_request(tmp_path / "gone" / "model.pkl")) == ""
    assert await experience.digest(LoadRequest("m", "sklearn", str(tmp_path), "", 10)) == ""
