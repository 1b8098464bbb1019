"""What callers do, by seed: which models there are, and who asks for what, and when.

The same workload is played to the fleet under its own rules, under LRU and to a naive baseline, so
it must depend on nothing but its seed and scale. Popularity is Zipf's and drifts; on top of it
come bursts, cold bursts, waves and churn, each in some worlds and not in others.

A world is *roomy* if all its models find room though one daemon is missing: there a lack of room is
nobody's excuse. In the others models have to go for others all the time.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate
from math import pi, sin
from random import Random
from typing import Final

from modelmesh.simulation.doors import behaviour

REQUESTS_PER_S: Final = 1.5
# Every request may wait so long: several loads in a row, and a peer that has to be suspected.
LEAST_TIMEOUT_S: Final = 15.0
MOST_TIMEOUT_S: Final = 40.0


class Doing(StrEnum):
    ASK = "ask"
    REGISTER = "register"
    UNREGISTER = "unregister"
    SET = "set"  # let the vmodel `name` stand for the model
    ASK_NAME = "ask by name"


@dataclass(frozen=True, slots=True)
class Deed:
    """Something a caller does. `pick` in [0, 1) chooses the daemon that is asked first."""

    at_s: float
    doing: Doing
    model_id: str
    pick: float
    key: str = ""
    timeout_s: float = 30.0
    idempotent: bool = True
    name: str = ""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a world is; 0 leaves it to the seed."""

    pods: int = 0
    models: int = 0
    minutes: float = 0.0


@dataclass(frozen=True, slots=True)
class Workload:
    """`surprises`: some models are larger than they are taken for. `features`: what is special."""

    pods: tuple[str, ...]
    models: tuple[tuple[str, str], ...]  # (id, key)
    deeds: tuple[Deed, ...]
    capacity_bytes: int  # of each daemon
    lasts_s: float
    roomy: bool
    surprises: bool
    features: tuple[str, ...]


def workload(seed: int, scale: Scale) -> Workload:
    """The workload of this seed."""
    rng = Random(f"workload {seed}")
    pods = scale.pods or rng.choice((3, 3, 3, 4, 4, 5))
    count = scale.models or rng.randint(20, 60)
    lasts_s = 60 * (scale.minutes or rng.choice((0.5, 0.75, 1.0, 1.5, 2.0)))
    roomy, surprises = rng.random() < 0.6, rng.random() < 0.2
    models = tuple((f"m{n}", _key(rng, surprises)) for n in range(count))
    features = tuple(each for each in _FEATURES if rng.random() < 0.45)
    deeds = [*_traffic(rng, models, lasts_s, "waves" in features, "heat" in features)]
    for feature in features:
        if feature in _EXTRAS:
            deeds.extend(_EXTRAS[feature](rng, models, lasts_s))
    deeds.sort(key=lambda deed: deed.at_s)
    return Workload(
        tuple("abcdefghijklmnopqrstuvwxyz"[n % 26] + str(n // 26 or "") for n in range(pods)),
        models,
        tuple(_with_manners(rng, deed) for deed in deeds),
        max(_capacity_bytes(models, pods, roomy), 2 * max(map(_size_bytes, _keys(models, deeds)))),
        lasts_s,
        roomy,
        surprises,
        features,
    )


def _key(rng: Random, surprises: bool, version: int = 0, *, errors: bool = True) -> str:
    size_bytes = round(min(50_000 * rng.paretovariate(1.2), 800_000))
    what: dict[str, object] = {"size_bytes": size_bytes, "load_s": round(rng.uniform(0.02, 1.5), 3)}
    if surprises and rng.random() < 0.3:
        what["guess_bytes"] = max(round(size_bytes * rng.uniform(0.4, 1.3)), 1)
    if rng.random() < 0.8:
        what["predict_s"] = round(rng.uniform(0.001, 0.05), 4)
    elif rng.random() < 0.5:
        what["predict_s"] = round(rng.uniform(0.3, 2.0), 3)
    if rng.random() < 0.03 and errors:
        what["load_error"] = "bad file"
    if version:
        what["version"] = version
    return json.dumps(what)


def _capacity_bytes(models: tuple[tuple[str, str], ...], pods: int, roomy: bool) -> int:
    sizes = [_size_bytes(key) for _, key in models]
    if roomy:
        return round(1.6 * sum(sizes) / max(pods - 1, 1)) + 2 * max(sizes)
    return round(0.5 * sum(sizes) / pods) + 2 * max(sizes)


def _keys(models: tuple[tuple[str, str], ...], deeds: Iterable[Deed]) -> Iterator[str]:
    """Of all that is ever registered: what comes later must fit into a daemon as well."""
    yield from (key for _, key in models)
    yield from (deed.key for deed in deeds if deed.key)


def _size_bytes(key: str) -> int:
    what = behaviour(key)
    return max(what.size_bytes, what.guess_bytes)


# --- traffic


def _traffic(
    rng: Random, models: tuple[tuple[str, str], ...], lasts_s: float, waves: bool, heat: bool
) -> Iterator[Deed]:
    """Zipf, whose order drifts; in waves if so wanted; one model hot for a while."""
    names = [model_id for model_id, _ in models]
    rng.shuffle(names)
    weights = list(
        accumulate(1 / (rank + 1) ** rng.choice((0.8, 1.0, 1.2)) for rank in range(len(names)))
    )
    at_s = 0.0
    while True:
        factor = 1 + 0.9 * sin(2 * pi * at_s / lasts_s) if waves else 1.0
        at_s += rng.expovariate(REQUESTS_PER_S * factor)
        if at_s >= lasts_s:
            break
        if rng.random() < 0.02:
            one, other = rng.randrange(len(names)), rng.randrange(len(names))
            names[one], names[other] = names[other], names[one]
        yield Deed(at_s, Doing.ASK, rng.choices(names, cum_weights=weights)[0], rng.random())
    if heat:
        start_s, hot = rng.uniform(0, lasts_s / 2), rng.choice(names)
        for n in range(60):
            yield Deed(start_s + n * 0.1, Doing.ASK, hot, rng.random())


def _bursts(rng: Random, models: tuple[tuple[str, str], ...], lasts_s: float) -> Iterator[Deed]:
    """Many callers of one model at once."""
    for _ in range(rng.randint(1, 3)):
        at_s, (model_id, _) = rng.uniform(0, lasts_s), rng.choice(models)
        for _ in range(rng.randint(10, 30)):
            yield Deed(at_s + rng.random() * 0.05, Doing.ASK, model_id, rng.random())


def _cold_bursts(
    rng: Random, models: tuple[tuple[str, str], ...], lasts_s: float
) -> Iterator[Deed]:
    """Models that nobody has asked for yet, many of them at once, through all daemons."""
    for burst in range(rng.randint(1, 2)):
        at_s = rng.uniform(0, lasts_s)
        for n in range(rng.randint(2, 8)):
            model_id = f"cold{burst}-{n}"
            yield Deed(max(at_s - 5, 0), Doing.REGISTER, model_id, rng.random(), _key(rng, False))
            for _ in range(rng.randint(1, 6)):
                yield Deed(at_s + rng.random() * 0.01, Doing.ASK, model_id, rng.random())


def _churn(rng: Random, models: tuple[tuple[str, str], ...], lasts_s: float) -> Iterator[Deed]:
    """Registrations come, go, and come again as something else; asked for at once."""
    for n in range(rng.randint(2, 5)):
        model_id, at_s = f"churn{n}", rng.uniform(0, lasts_s / 2)
        for version in range(1, rng.randint(2, 5)):
            key = _key(rng, False, version)
            yield Deed(at_s, Doing.REGISTER, model_id, rng.random(), key)
            for _ in range(rng.randint(1, 4)):
                at_s += rng.choice((0.003, 0.05, 2.0)) * rng.random()
                yield Deed(at_s, Doing.ASK, model_id, rng.random())
            at_s += rng.uniform(0.1, lasts_s / 6)
            yield Deed(at_s, Doing.UNREGISTER, model_id, rng.random())
            if rng.random() < 0.5:
                yield Deed(at_s + 5 * rng.random(), Doing.ASK, model_id, rng.random())
            at_s += rng.choice((0.05, 0.5, 5.0))


def _names(rng: Random, models: tuple[tuple[str, str], ...], lasts_s: float) -> Iterator[Deed]:
    """A vmodel moves from model to model, and is asked all the time."""
    name, at_s = "v", rng.uniform(0, lasts_s / 4)
    began_s = at_s
    for version in range(1, rng.randint(2, 6)):
        key = _key(rng, False, version, errors=False)
        yield Deed(at_s, Doing.SET, f"v-{version}", rng.random(), key, name=name)
        at_s += rng.choice((0.2, 3.0, 15.0)) * rng.random()
    while began_s < lasts_s:
        began_s += rng.expovariate(2.0)
        yield Deed(began_s, Doing.ASK_NAME, name, rng.random(), name=name)


_EXTRAS: Final = {
    "bursts": _bursts, "cold bursts": _cold_bursts, "churn": _churn, "vmodels": _names
}  # fmt: skip
_FEATURES: Final = ("waves", "heat", *_EXTRAS)


def _with_manners(rng: Random, deed: Deed) -> Deed:
    timeout_s = rng.uniform(LEAST_TIMEOUT_S, MOST_TIMEOUT_S)
    return replace(deed, timeout_s=timeout_s, idempotent=rng.random() >= 0.1)
