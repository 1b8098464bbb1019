"""Names, labels and bounds of the metrics."""

from modelmesh.observe.metrics import MOST_METHODS, MOST_MODELS, FleetGauges, Gauges, Metrics

MODELMESH_NAMES = [
    "modelmesh_invoke_model_milliseconds",
    "modelmesh_api_request_milliseconds",
    "modelmesh_request_size_bytes",
    "modelmesh_response_size_bytes",
    "modelmesh_cache_miss_milliseconds",
    "modelmesh_loadmodel_milliseconds",
    "modelmesh_unloadmodel_milliseconds",
    "modelmesh_req_queue_delay_milliseconds",
    "modelmesh_loading_queue_delay_milliseconds",
    "modelmesh_model_sizing_milliseconds",
    "modelmesh_age_at_eviction_milliseconds",
    "modelmesh_loaded_model_size_bytes",
    "modelmesh_loadmodel_failure",
    "modelmesh_unloadmodel_failure",
    "modelmesh_unloadmodel_attempt_failure",
    "modelmesh_models_loaded_total",
    "modelmesh_models_with_failure_total",
    "modelmesh_models_managed_total",
    "modelmesh_instance_lru_seconds",
    "modelmesh_instance_lru_age_seconds",
    "modelmesh_instance_capacity_bytes",
    "modelmesh_instance_used_bytes",
    "modelmesh_instance_used_bps",
    "modelmesh_instance_models_total",
    "request_preprocess_seconds",
    "request_predict_seconds",
    "request_explain_seconds",
    "request_postprocess_seconds",
]


def _text(metrics: Metrics, gauges: Gauges | None = None) -> str:
    return metrics.scrape(lambda: gauges or Gauges()).decode()


def test_every_name_of_modelmesh_and_kserve_is_there() -> None:
    text = _text(Metrics())
    missing = [name for name in MODELMESH_NAMES if f"# TYPE {name} " not in text]
    assert missing == []


def test_a_request_moves_its_histograms_by_exactly_one() -> None:
    metrics = Metrics()
    metrics.request("/inference.GRPCInferenceService/ModelInfer", "OK", 0.003, 93, 50)
    text = _text(metrics)
    labels = '{code="OK",method="ModelInfer"}'
    assert f"modelmesh_api_request_milliseconds_count{labels} 1.0" in text
    assert f"modelmesh_api_request_milliseconds_sum{labels} 3.0" in text
    assert f"modelmesh_request_size_bytes_sum{labels} 93.0" in text
    assert f"modelmesh_response_size_bytes_sum{labels} 50.0" in text


def test_full_names_are_the_operators_choice() -> None:
    metrics = Metrics(fq_names=True)
    metrics.invoke("/a.B/C", "OK", 0.001)
    assert 'method="/a.B/C"' in _text(metrics)


def test_gauges_are_read_at_the_scrape() -> None:
    text = _text(Metrics(), Gauges(capacity_bytes=1000, used_bytes=250, fleet=FleetGauges(3)))
    assert "modelmesh_instance_capacity_bytes 1000.0" in text
    assert "modelmesh_instance_used_bps 2500.0" in text
    assert "modelmesh_models_loaded_total 3.0" in text


def test_what_the_leader_says_of_the_fleet_nobody_else_does() -> None:
    metrics = Metrics()
    for _ in range(2):
        assert "modelmesh_models_managed_total 5.0" in _text(
            metrics, Gauges(fleet=FleetGauges(1, 2, 5))
        )
        text = _text(metrics, Gauges(models_loaded=3, fleet=None))
        assert "modelmesh_models" not in text
        assert "modelmesh_instance_models_total 3.0" in text


def test_models_are_no_label_unless_asked_for_and_then_bounded() -> None:
    quiet, loud = Metrics(), Metrics(per_model=True)
    for n in range(MOST_MODELS + 10):
        quiet.kserve("predict", f"m{n}", 0.1)
        loud.kserve("predict", f"m{n}", 0.1)
    assert 'request_predict_seconds_count{model_name=""} 1010.0' in _text(quiet)
    text = _text(loud)
    assert 'request_predict_seconds_count{model_name="m0"} 1.0' in text
    assert 'request_predict_seconds_count{model_name="other"} 10.0' in text


def test_methods_that_callers_make_up_take_a_bounded_memory() -> None:
    metrics = Metrics()
    metrics.request("/known.Service/Method", "OK", 0.1, 1, 1)
    for number in range(MOST_METHODS + 50):
        metrics.request(f"/made.Up/M{number}", "NOT_FOUND", 0.1, 1, 1)
    metrics.request("/known.Service/Method", "NOT_FOUND", 0.1, 1, 1)
    text = _text(metrics)
    count = 'modelmesh_api_request_milliseconds_count{code="'
    assert text.count(count) <= MOST_METHODS + 2
    assert count + 'NOT_FOUND",method="other"} 51.0' in text
    assert count + 'NOT_FOUND",method="Method"} 1.0' in text, "a method once known stays known"
