"""GDSF against LRU on one small trace of unequal models: loads and load seconds are counted."""

from random import Random

from modelmesh.cache.copies import Copies
from modelmesh.cache.decisions import Load, Unload, Verdict

MODELS = 200
REQUESTS = 6000


def replay(policy: str) -> tuple[int, float]:
    """Loads, and seconds of loading, for a tenth of all bytes; a scan passes by in the middle."""
    random = Random(3)
    sizes = [int(random.lognormvariate(3, 1.2)) + 1 for _ in range(MODELS)]
    costs = [random.choice([0.05, 0.05, 0.3, 1.5, 4.0]) for _ in range(MODELS)]
    weights = [1 / (rank + 1) ** 0.9 for rank in range(MODELS)]
    asked = random.choices(range(MODELS), weights, k=REQUESTS)
    asked[REQUESTS // 2 : REQUESTS // 2] = range(MODELS)
    # A request a minute, so that no minimum residency matters, and a hundred in a half-life.
    copies = Copies(max(*sizes, sum(sizes) // 10), policy, half_life_s=6000.0)
    loads, load_s = 0, 0.0
    for second, number in enumerate(asked):
        model_id, now = str(number), second * 60.0
        decision = copies.admit(model_id, sizes[number], now)
        waiting = list(decision.effects)
        for effect in waiting:
            if isinstance(effect, Unload):
                waiting.extend(copies.unloaded(effect.model_id, now))
            else:
                assert effect == Load(model_id, sizes[number])
                copies.loaded(model_id, sizes[number], costs[number], now)
                loads, load_s = loads + 1, load_s + costs[number]
        assert copies.admit(model_id, sizes[number], now).verdict is Verdict.SERVE
        copies.touch(model_id, now)
    return loads, load_s


def test_gdsf_loads_less_often_and_much_less_expensively_than_lru() -> None:
    lru_loads, lru_s = replay("lru")
    gdsf_loads, gdsf_s = replay("gdsf")
    assert gdsf_loads < lru_loads
    assert gdsf_s < 0.65 * lru_s
