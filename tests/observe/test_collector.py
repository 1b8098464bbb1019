"""The collector keeps still for as long as anybody needs it, and no longer."""

import gc
from collections.abc import Iterator

import pytest

from modelmesh.observe.collector import still, uncollected


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    assert gc.isenabled()
    yield
    gc.unfreeze()


def test_it_keeps_still_until_the_last_block_has_ended() -> None:
    first, second = still(), still()
    first.__enter__()
    second.__enter__()
    assert not gc.isenabled()
    first.__exit__(None, None, None)
    assert not gc.isenabled(), "the second one goes on"
    second.__exit__(None, None, None)
    assert gc.isenabled()


def test_a_failure_wakes_it_too() -> None:
    with pytest.raises(KeyError), uncollected(), still():
        raise KeyError
    assert gc.isenabled()


def test_who_has_switched_it_off_finds_it_so() -> None:
    gc.disable()
    try:
        with still():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_stays_is_looked_at_no_more() -> None:
    kept: list[dict[str, object]] = []
    with uncollected():
        kept.append({"self": kept})
    assert not any(each is kept[0] for each in gc.get_objects())
