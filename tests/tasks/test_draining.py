"""Copies are made elsewhere before their daemon goes, within a bound and whatever happens."""

import asyncio
from collections.abc import Collection

from modelmesh.errors import Code, Failure, MeshError
from modelmesh.simulation.clock import run
from modelmesh.tasks.draining import AT_ONCE, Drain, Drained


class Others:
    """Takes copies: some are there, some are refused, some break, each takes its time."""

    def __init__(self, held: Collection[str] = (), refuse: Collection[str] = ()) -> None:
        self.held = held
        self.refuse = refuse
        self.broken: Collection[str] = ()
        self.takes_s = 1.0
        self.asked: list[str] = []
        self.now = self.most = 0

    async def another_copy(self, model_id: str, bound_s: float) -> str:
        self.asked.append(model_id)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.takes_s)
        finally:
            self.now -= 1
        if model_id in self.broken:
            raise ValueError(model_id)
        if model_id in self.refuse:
            raise MeshError(Failure(Code.UNAVAILABLE, "no room"))
        return "" if model_id == "nowhere" else "other"

    def drain(self, *models: str, bound_s: float = 60.0) -> tuple[Drained, float]:
        """What came of it, and how long it took."""

        async def main() -> tuple[Drained, float]:
            loop = asyncio.get_running_loop()
            began = loop.time()
            work = Drain(lambda: models, lambda model_id: model_id in self.held, self.another_copy)
            return await work.run(bound_s), loop.time() - began

        return run(main())


def test_the_most_worthy_come_first_and_a_few_at_a_time() -> None:
    others = Others()
    models = [f"m{n}" for n in range(20)]
    drained, took_s = others.drain(*models)
    assert drained == Drained(moved=20)
    assert others.asked == models
    assert others.most == AT_ONCE
    assert 3.0 <= took_s < 3.1


def test_what_is_held_elsewhere_is_left_and_what_is_refused_does_not_stop_the_rest() -> None:
    others = Others(held={"a"}, refuse={"b"})
    drained, _ = others.drain("a", "b", "nowhere", "c")
    assert drained == Drained(held=1, moved=1, refused=2)
    assert "a" not in others.asked


def test_the_bound_ends_it_and_what_was_under_way_counts_as_left() -> None:
    others = Others()
    others.takes_s = 10.0
    drained, took_s = others.drain(*(f"m{n}" for n in range(20)), bound_s=15.0)
    assert drained == Drained(moved=8, left=12)
    assert 15.0 <= took_s < 15.1
    assert others.now == 0, "it goes on in secret"


def test_what_breaks_does_not_keep_the_daemon_from_leaving() -> None:
    others = Others()
    others.broken = {"a"}
    drained, _ = others.drain("a", "b")
    assert drained == Drained(moved=1, refused=1)


def test_nothing_to_hand_over_takes_no_time() -> None:
    assert Others().drain() == (Drained(), 0.0)
