"""What loads are taken to cost."""

from modelmesh.cache.costs import LEAST_S, TypeCosts, median_of, with_load


def test_one_slow_load_does_not_make_a_model_dear() -> None:
    loads: tuple[float, ...] = ()
    for load_s in (0.02, 0.03, 9.0):
        loads = with_load(loads, load_s)
    assert median_of(loads) == 0.03


def test_the_last_five_loads_count() -> None:
    loads: tuple[float, ...] = ()
    for load_s in (1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0):
        loads = with_load(loads, load_s)
    assert loads == (1.0, 1.0, 2.0, 2.0, 2.0)
    assert median_of(loads) == 2.0


def test_nothing_costs_less_than_the_floor() -> None:
    assert median_of((0.0,)) == LEAST_S == 0.005
    costs = TypeCosts()
    costs.add("sklearn", 0.0001)
    assert costs.expected_s("sklearn") == LEAST_S


def test_a_type_is_judged_by_its_last_loads_and_an_unknown_one_by_the_floor() -> None:
    costs = TypeCosts()
    for _ in range(100):
        costs.add("onnx", 4.0)
    for _ in range(31):
        costs.add("onnx", 0.5)
    costs.add("sklearn", 0.1)
    assert [costs.expected_s(each) for each in ("onnx", "sklearn", "dummy")] == [0.5, 0.1, LEAST_S]


def test_types_are_bounded() -> None:
    costs = TypeCosts()
    for number in range(1025):
        costs.add(f"type {number}", 1.0)
    assert costs.expected_s("type 0") == LEAST_S
    assert costs.expected_s("type 1024") == 1.0
