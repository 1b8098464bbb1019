"""MM_METRICS in ModelMesh's form."""

import pytest

from modelmesh.observe.spec import MetricsSpec, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("disabled", MetricsSpec(None)),
        ("prometheus:port=2112;scheme=http", MetricsSpec(2112)),
        ("prometheus:port=0;fq_names=true;per_model_metrics=true", MetricsSpec(0, True, True)),
        ("prometheus:", MetricsSpec(2112)),
        ("prometheus:port=1;mem_detail=all;", MetricsSpec(1)),
    ],
)
def test_what_is_understood(text: str, expected: MetricsSpec) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("statsd:port=8126", "disabled"),
        ("prometheus:port=2112;scheme=https", "TLS"),
        ("prometheus:port=x", "port"),
        ("prometheus:port=70000", "port"),
        ("prometheus:fq_names=maybe", "true or false"),
        ("prometheus:colour=red", "colour"),
        ("prometheus:port", "name=value"),
    ],
)
def test_what_stops_the_start(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse(text)
