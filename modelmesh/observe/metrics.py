"""Prometheus metrics under ModelMesh's and KServe's names.

One `Metrics` per daemon, with a registry of its own: nothing global, so a test reads exactly what
its daemon did. Rooms call methods named after what happened; names, buckets and labels live here.
Children are kept after their first use, since looking one up costs more than counting.

Labels are bounded: codes come from a small set; callers choose methods, and beyond `MOST_METHODS`
it is "other"; a model's name is a label only where the operator asks for it
(`per_model_metrics=true`), and from the `MOST_MODELS`th name on it is "other".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.exposition import generate_latest

MOST_MODELS: Final = 1000
MOST_METHODS: Final = 200

_MILLISECONDS: Final = (
    0.5, 1, 2, 5, 10, 20, 50, 75, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 60000, 120000,
    300000,
)  # fmt: skip
_MESSAGE_BYTES: Final = tuple(128 * 4**n for n in range(8))
_MODEL_BYTES: Final = tuple(256 * 1024 * 4**n for n in range(8))
_DAY_MS: Final = 86_400_000
_EVICTION_AGE_MS: Final = (
    30_000, 300_000, 900_000, 3_600_000, 14_400_000, 43_200_000, _DAY_MS, 7 * _DAY_MS, 30 * _DAY_MS,
    90 * _DAY_MS,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class FleetGauges:
    """Models of the whole fleet: with a loaded copy, with a remembered failure, and all."""

    models_loaded: int = 0
    models_failed: int = 0
    models_registered: int = 0


@dataclass(frozen=True, slots=True)
class Gauges:
    """What the daemon's memory looks like, read when somebody scrapes.

    `fleet`: None where another daemon says it; its names are then not on the page, as in ModelMesh.
    """

    capacity_bytes: int = 0
    used_bytes: int = 0
    debt_bytes: int = 0
    models_loaded: int = 0
    fleet: FleetGauges | None = FleetGauges()
    lru_time_s: float = 0.0  # seconds since the epoch of the least recent use; 0 = empty
    lru_age_s: float = 0.0


class Metrics:
    """Counts what happens. All methods are synchronous and cheap."""

    def __init__(self, *, per_model: bool = False, fq_names: bool = False) -> None:
        self.registry = CollectorRegistry()
        self._per_model = per_model
        self._fq_names = fq_names
        self._models: set[str] = set()
        self._methods: set[str] = set()
        self._children: dict[tuple[str, str], tuple[Histogram, ...]] = {}
        self._kserve: dict[tuple[str, str], Histogram] = {}
        self._requests()
        self._life()
        self._instance()

    # --- what callers see

    def _requests(self) -> None:
        labels = ("method", "code")
        ms = _MILLISECONDS
        self._api = self._histogram("api_request_milliseconds", "Calls from outside", ms, labels)
        self._in = self._histogram("request_size_bytes", "Requests", _MESSAGE_BYTES, labels)
        self._out = self._histogram("response_size_bytes", "Responses", _MESSAGE_BYTES, labels)
        self._invoke = self._histogram("invoke_model_milliseconds", "Runtime calls", ms, labels)
        self._predict = {
            verb: Histogram(
                f"request_{verb}_seconds",
                f"KServe's {verb} latency",
                ("model_name",),
                registry=self.registry,
            )
            for verb in ("preprocess", "predict", "explain", "postprocess")
        }

    def request(
        self, method: str, code: str, seconds: float, request_bytes: int, response_bytes: int
    ) -> None:
        """One call from outside has been answered."""
        children = self._children.get((method, code)) or self._bind(method, code)
        children[0].observe(seconds * 1000)
        children[1].observe(request_bytes)
        children[2].observe(response_bytes)

    def invoke(self, method: str, code: str, seconds: float) -> None:
        """One call has been answered by the runtime."""
        children = self._children.get((method, code)) or self._bind(method, code)
        children[3].observe(seconds * 1000)

    def kserve(self, verb: str, model_id: str, seconds: float) -> None:
        """One part (preprocess, predict, explain, postprocess) of serving one model."""
        child = self._kserve.get((verb, model_id))
        if child is None:
            name = self._model_label(model_id)
            child = self._predict[verb].labels(name)
            if len(self._kserve) < 4 * MOST_MODELS:
                self._kserve[verb, model_id] = child
        child.observe(seconds)

    def _bind(self, method: str, code: str) -> tuple[Histogram, ...]:
        known = method in self._methods or len(self._methods) < MOST_METHODS
        name = method if self._fq_names else method.rpartition("/")[2]
        parents = (self._api, self._in, self._out, self._invoke)
        children = tuple(parent.labels(name if known else "other", code) for parent in parents)
        if known:
            self._methods.add(method)
            self._children[method, code] = children
        return children

    def _model_label(self, model_id: str) -> str:
        if not self._per_model:
            return ""
        if model_id not in self._models and len(self._models) >= MOST_MODELS:
            return "other"
        self._models.add(model_id)
        return model_id

    # --- the life of models

    def _life(self) -> None:
        ms = _MILLISECONDS
        self.cache_miss_ms = self._histogram("cache_miss_milliseconds", "Waits for loads", ms)
        self.load_ms = self._histogram("loadmodel_milliseconds", "Loads", ms)
        self.unload_ms = self._histogram("unloadmodel_milliseconds", "Unloads", ms)
        self.queue_ms = self._histogram("req_queue_delay_milliseconds", "Waits for a slot", ms)
        self.load_queue_ms = self._histogram("loading_queue_delay_milliseconds", "Load queue", ms)
        self.sizing_ms = self._histogram("model_sizing_milliseconds", "Weighing", ms)
        self.eviction_age_ms = self._histogram(
            "age_at_eviction_milliseconds", "Idle time of evicted models", _EVICTION_AGE_MS
        )
        self.model_bytes = self._histogram("loaded_model_size_bytes", "Loaded models", _MODEL_BYTES)
        # ModelMesh exposes these counters without Prometheus' _total, so they are gauges by type.
        self.load_failures = self._gauge("loadmodel_failure", "Loads that failed")
        self.unload_failures = self._gauge("unloadmodel_failure", "Models never unloaded")
        self.unload_attempt_failures = self._gauge(
            "unloadmodel_attempt_failure", "Unload attempts that failed"
        )

    # --- the daemon as a whole

    def _instance(self) -> None:
        names = {
            "instance_capacity_bytes": "Memory for models",
            "instance_used_bytes": "Memory reserved by models",
            "instance_used_bps": "Used memory in basis points",
            "instance_debt_bytes": "Memory beyond capacity that must be given back first",
            "instance_models_total": "Models loaded here",
            "instance_lru_seconds": "When the least recently used model was used (epoch)",
            "instance_lru_age_seconds": "How long ago that was",
        }
        fleet = {
            "models_loaded_total": "Models loaded anywhere",
            "models_with_failure_total": "Models whose load failed and is remembered",
            "models_managed_total": "Models registered",
        }
        self._gauges = {name: self._gauge(name, text) for name, text in names.items()}
        self._fleet = {name: self._gauge(name, text) for name, text in fleet.items()}
        self._speaks_for_fleet = True

    def scrape(self, read: Callable[[], Gauges], names: Sequence[str] = ()) -> bytes:
        """Prometheus' text, with the gauges as they are now: everything, or the samples named."""
        self._set(read())
        return generate_latest(self.registry.restricted_registry(names) if names else self.registry)

    def _set(self, now: Gauges) -> None:
        capacity = now.capacity_bytes
        values = {
            "instance_capacity_bytes": capacity,
            "instance_used_bytes": now.used_bytes,
            "instance_used_bps": now.used_bytes * 10_000 // capacity if capacity else 0,
            "instance_debt_bytes": now.debt_bytes,
            "instance_models_total": now.models_loaded,
            "instance_lru_seconds": now.lru_time_s,
            "instance_lru_age_seconds": now.lru_age_s,
        }
        for name, value in values.items():
            self._gauges[name].set(value)
        self._set_fleet(now.fleet)

    def _set_fleet(self, now: FleetGauges | None) -> None:
        speaks = now is not None
        if speaks != self._speaks_for_fleet:
            self._speaks_for_fleet = speaks
            for gauge in self._fleet.values():
                (self.registry.register if speaks else self.registry.unregister)(gauge)
        if now is not None:
            self._fleet["models_loaded_total"].set(now.models_loaded)
            self._fleet["models_with_failure_total"].set(now.models_failed)
            self._fleet["models_managed_total"].set(now.models_registered)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
    ) -> Histogram:
        return Histogram(f"modelmesh_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"modelmesh_{name}", text, registry=self.registry)
