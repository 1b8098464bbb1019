"""`MM_METRICS`, in ModelMesh's form: `prometheus:port=2112;scheme=http;per_model_metrics=false`.

ModelMesh switches metrics off silently when it cannot read this; here the start fails instead.
Pure.
"""

from dataclasses import dataclass

_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class MetricsSpec:
    """Where and how metrics are published. `port` None: nowhere."""

    port: int | None
    fq_names: bool = False
    per_model: bool = False


def parse(text: str) -> MetricsSpec:
    """Read the setting; raises ValueError with a sentence that says what is wrong."""
    if text.strip().lower() == "disabled":
        return MetricsSpec(None)
    kind, _, rest = text.partition(":")
    if kind != "prometheus":
        raise ValueError(f"MM_METRICS must be `disabled` or `prometheus:...`, not {text!r}")
    options = dict(_option(part) for part in rest.split(";") if part.strip())
    if options.pop("scheme", "http") != "http":
        raise ValueError("MM_METRICS: scheme=https is not supported yet; TLS comes with the wire")
    options.pop("mem_detail", None)  # about the JVM's pools: nothing here answers to it
    spec = MetricsSpec(
        _port(options.pop("port", "2112")),
        _boolean("fq_names", options.pop("fq_names", "false")),
        _boolean("per_model_metrics", options.pop("per_model_metrics", "false")),
    )
    if options:
        raise ValueError(f"MM_METRICS: unknown option {', '.join(sorted(options))}")
    return spec


def _option(part: str) -> tuple[str, str]:
    name, equals, value = part.strip().partition("=")
    if not equals:
        raise ValueError(f"MM_METRICS: {part.strip()!r} is not name=value")
    return name, value


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise ValueError(f"MM_METRICS: port must be a port, not {text!r}")
    return int(text)


def _boolean(name: str, text: str) -> bool:
    if text.lower() not in _BOOLEANS:
        raise ValueError(f"MM_METRICS: {name} must be true or false, not {text!r}")
    return _BOOLEANS[text.lower()]
