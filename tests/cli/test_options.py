"""Environment and flags -> settings."""

import argparse

import pytest

from modelmesh.cli import documents, options
from modelmesh.settings import NOT_YET, Settings, fields


def test_defaults_without_environment_and_flags() -> None:
    assert options.read({}, {}) == Settings()


def test_a_flag_wins_over_its_variable_and_both_over_the_default() -> None:
    environment = {"MM_SVC_GRPC_PORT": "1", "MM_REST_PORT": "2"}
    settings = options.read({"grpc_port": "3", "rest_port": None}, environment)
    assert (settings.grpc_port, settings.rest_port) == (3, 2)


def test_milliseconds_of_modelmesh_are_seconds_here() -> None:
    environment = {"MM_LOAD_FAILURE_EXPIRY_TIME_MS": "1500", "SHUTDOWN_TIMEOUT_MS": "500"}
    settings = options.read({}, environment)
    assert (settings.load_failure_expiry_s, settings.shutdown_timeout_s) == (1.5, 0.5)
    assert options.read({"shutdown_timeout_s": "20"}, {}).shutdown_timeout_s == 20


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_a_known_variable_that_is_not_supported_stops_the_start(name: str) -> None:
    with pytest.raises(options.BadSettings, match=name):
        options.read({}, {name: "true"})
    assert options.read({}, {name: ""}) == Settings()


# What the original and its start script read, beside what only its launcher knows (heap, JVM, pod).
OF_MODELMESH = """
MM_SERVICE_NAME MM_SERVICE_CLASS MM_SVC_GRPC_PORT MM_SVC_GRPC_MAX_MSG_SIZE
MM_SVC_GRPC_MAX_HEADERS_SIZE MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS
MM_SVC_GRPC_MAX_CONNECTION_AGE_GRACE_SECS INTERNAL_GRPC_PORT INTERNAL_GRPC_SOCKET_PATH
INTERNAL_SERVING_GRPC_PORT INTERNAL_SERVING_GRPC_SOCKET_PATH KV_STORE ZOOKEEPER LL_REGISTRY
MM_KVSTORE_PREFIX KV_READ_ONLY MM_LOCATION MM_ZONE MM_LABELS MM_TYPE_CONSTRAINTS
MM_TYPE_CONSTRAINTS_PATH MM_DATAPLANE_CONFIG MM_DATAPLANE_CONFIG_PATH MM_SCALEUP_RPM_THRESHOLD
MM_MAX_INFLIGHT_PER_MODEL_COPY MM_CONC_SCALEUP_BANDWIDTH_PCT MM_LOAD_FAILURE_EXPIRY_TIME_MS
MM_MULTI_PARALLELISM MM_METRICS MM_INFO_METRICS MM_LOG_EACH_INVOKE MM_SEND_DEST_ID
MM_LOG_REQUEST_HEADERS MM_PAYLOAD_PROCESSORS BOOTSTRAP_CLEARANCE_PERIOD_MS
MM_FAILFAST_UPGRADE_ENABLED MM_DEFAULT_VMODEL_OWNER MM_AUTO_REGISTER_MODELS
MM_AUTO_REGISTER_MODEL MM_AUTO_REGISTER_MODELS_PATH MM_AUTO_REGISTER_MODEL_PATH
MM_PRESTOP_WAIT_PORT MM_TLS_PRIVATE_KEY_PATH MM_SVC_GRPC_PRIVATE_KEY_PATH
MM_TLS_PRIVATE_KEY_PASSPHRASE MM_SVC_GRPC_PRIVATE_KEY_PASSPHRASE MM_TLS_KEY_CERT_PATH
MM_SVC_GRPC_CA_CERT_PATH MM_TLS_CLIENT_AUTH MM_TLS_TRUST_CERT_PATH MM_LOG_PROMETHEUS_REQS
MM_PROBE_PORT SHUTDOWN_TIMEOUT_MS MM_ENABLE_SSL MM_INTRACLUSTER_CLIENTAUTH
MM_INTERNAL_TRUST_CERTS MM_TRUST_CERTS TAS_SERVICE_NAME TAS_SVC_GRPC_PORT
TAS_SVC_GRPC_PRIVATE_KEY_PATH TAS_SVC_GRPC_CA_CERT_PATH
"""
OF_KSERVE = "PREDICT_PROBA CE_TYPE CE_SOURCE CE_MERGE STORAGE_URI STORAGE_CONFIG"


@pytest.mark.parametrize("name", f"{OF_MODELMESH} {OF_KSERVE}".split())
def test_no_variable_of_the_originals_is_silently_ignored(name: str) -> None:
    assert name in NOT_YET or name in {field.metadata["env"] for field in fields()}


@pytest.mark.parametrize(
    "environment",
    [
        {"MM_SVC_GRPC_PORT": "eight"},
        {"MM_SVC_GRPC_PORT": "99999"},
        {"MM_REST_PORT": "-1"},
        {"MM_PROBE_PORT": "70000"},
        {"MM_EVICTION_POLICY": "random"},
        {"PREDICT_PROBA": "perhaps"},
        {"MM_LOAD_TIMEOUT_SECS": "soon"},
        {"INTERNAL_GRPC_PORT": "1", "INTERNAL_GRPC_SOCKET_PATH": "/s"},
        {"MM_AUTO_REGISTER_MODELS": "[]", "MM_AUTO_REGISTER_MODELS_PATH": "/f"},
    ],
)
def test_nonsense_stops_the_start_naming_the_variable(environment: dict[str, str]) -> None:
    with pytest.raises(options.BadSettings, match=next(iter(environment))):
        options.read({}, environment)


def test_every_setting_has_a_flag_and_a_help_text() -> None:
    parser = argparse.ArgumentParser()
    options.add_flags(parser)
    flags = vars(parser.parse_args([]))
    assert set(flags) == {field.name for field in fields()}
    assert "MM_SVC_GRPC_PORT" in parser.format_help()


def test_the_page_names_every_setting_and_every_refused_variable() -> None:
    page = documents.settings_page()
    assert all(f"`{field.metadata['env']}`" in page for field in fields())
    assert all(f"`{name}`" in page for name in NOT_YET)


def test_every_settings_row_names_a_test_that_exists() -> None:
    missing = []
    for field in fields():
        path, _, name = field.metadata["test"].partition("::")
        source = documents.TARGET.parents[1] / path
        if not source.exists() or f"def {name}(" not in source.read_text():
            missing.append(field.name)
    assert missing == []
