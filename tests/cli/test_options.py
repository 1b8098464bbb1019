"""Environment and flags -> settings."""

import argparse

import pytest

from modelmesh.cli import documents, options
from modelmesh.runtime.zygote import host_environment
from modelmesh.settings import (
    NO_EFFECT,
    NO_PROPERTIES,
    NOT_YET,
    OBEYED,
    Settings,
    fields,
)


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


def test_mebibytes_of_modelmesh_are_bytes_here() -> None:
    assert options.read({}, {"MEM_LIMIT_MB": "1280"}).memory_limit_bytes == 1280 << 20
    assert options.read({"memory_limit_bytes": "1280"}, {}).memory_limit_bytes == 1280


@pytest.mark.parametrize("name", sorted(NOT_YET | NO_PROPERTIES))
def test_a_known_variable_that_is_not_supported_stops_the_start(name: str) -> None:
    with pytest.raises(options.BadSettings, match=name):
        options.read({}, {name: "true"})
    assert options.read({}, {name: ""}) == Settings()


# --- what becomes of each variable that the originals read

# ModelMesh's program, its start script, its system properties; KServe's model servers.
SUPPORTED = """
MM_SVC_GRPC_PORT MM_SVC_GRPC_MAX_MSG_SIZE MM_SVC_GRPC_MAX_HEADERS_SIZE
MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS MM_SVC_GRPC_MAX_CONNECTION_AGE_GRACE_SECS INTERNAL_GRPC_PORT
INTERNAL_GRPC_SOCKET_PATH INTERNAL_SERVING_GRPC_PORT INTERNAL_SERVING_GRPC_SOCKET_PATH KV_STORE
MM_MAX_INFLIGHT_PER_MODEL_COPY MM_LOAD_FAILURE_EXPIRY_TIME_MS MM_METRICS MM_LOG_EACH_INVOKE
MM_AUTO_REGISTER_MODELS MM_AUTO_REGISTER_MODELS_PATH MM_DEFAULT_VMODEL_OWNER
MM_PROBE_PORT SHUTDOWN_TIMEOUT_MS MEM_LIMIT_MB WKUBE_POD_NAME
PREDICT_PROBA
MM_SERVICE_NAME MM_KVSTORE_PREFIX MM_LOCATION MM_ZONE MM_LABELS MM_TYPE_CONSTRAINTS
MM_TYPE_CONSTRAINTS_PATH MM_DATAPLANE_CONFIG MM_DATAPLANE_CONFIG_PATH WKUBE_POD_IPADDR
MM_MULTI_PARALLELISM MM_SCALEUP_RPM_THRESHOLD MM_CONC_SCALEUP_BANDWIDTH_PCT
"""
REFUSED = """
TAS_SERVICE_NAME MM_SERVICE_CLASS TAS_SVC_GRPC_PORT ZOOKEEPER LL_REGISTRY
KV_READ_ONLY MM_INFO_METRICS MM_SEND_DEST_ID
MM_LOG_REQUEST_HEADERS MM_PAYLOAD_PROCESSORS MM_PAYLOAD_PROCESSORS_THREADS
MM_PAYLOAD_PROCESSORS_CAPACITY BOOTSTRAP_CLEARANCE_PERIOD_MS MM_FAILFAST_UPGRADE_ENABLED
MM_AUTO_REGISTER_MODEL MM_AUTO_REGISTER_MODEL_PATH MM_PRESTOP_WAIT_PORT
MM_TLS_PRIVATE_KEY_PATH MM_SVC_GRPC_PRIVATE_KEY_PATH TAS_SVC_GRPC_PRIVATE_KEY_PATH
MM_TLS_PRIVATE_KEY_PASSPHRASE MM_SVC_GRPC_PRIVATE_KEY_PASSPHRASE MM_TLS_KEY_CERT_PATH
MM_SVC_GRPC_CA_CERT_PATH TAS_SVC_GRPC_CA_CERT_PATH MM_TLS_CLIENT_AUTH MM_TLS_TRUST_CERT_PATH
MM_LOG_PROMETHEUS_REQS
MM_ENABLE_SSL MM_INTRACLUSTER_CLIENTAUTH MM_INTERNAL_TRUST_CERTS MM_TRUST_CERTS SERVICE_VERSION
WKUBE_NODE_IP WKUBE_NODE_NAME WKUBE_SERVICE_NAME WKUBE_SERVICE_PORT_NAME
tas.min_churn_age_ms tas.janitor_freq_secs tas.ratecheck_freq_ms mm.min_second_copy_age_secs
mm.max_second_copy_age_secs tas.loading_thread_count
CE_TYPE CE_SOURCE CE_MERGE STORAGE_URI STORAGE_CONFIG
"""
TOLD = "HEAP_SIZE_MB MAX_GC_PAUSE MAX_DIRECT_BUFS_MB NETTY_BUFFER_CHECKS GC_DIAG CUSTOM_JVM_ARGS"
HANDED_ON = "MALLOC_ARENA_MAX"

# Another value than the default, where it is not simply another number.
VALUES = {
    "INTERNAL_GRPC_SOCKET_PATH": "/run/a.sock",
    "INTERNAL_SERVING_GRPC_SOCKET_PATH": "/run/b.sock",
    "KV_STORE": "memory",
    "MM_METRICS": "disabled",
    "MM_LOG_EACH_INVOKE": "true",
    "MM_AUTO_REGISTER_MODELS": "[]",
    "MM_AUTO_REGISTER_MODELS_PATH": "/models.json",
    "PREDICT_PROBA": "true",
    "MM_TYPE_CONSTRAINTS": "{}",
    "MM_TYPE_CONSTRAINTS_PATH": "/constraints.json",
    "MM_DATAPLANE_CONFIG": "{}",
    "MM_DATAPLANE_CONFIG_PATH": "/dataplane.json",
}


@pytest.mark.parametrize("name", SUPPORTED.split())
def test_a_supported_variable_of_the_originals_changes_a_setting(name: str) -> None:
    environment = {name: VALUES.get(name, "7")}
    assert options.read({}, environment) != Settings()
    assert options.without_effect(environment) == {}


@pytest.mark.parametrize("name", REFUSED.split())
def test_a_refused_variable_of_the_originals_stops_the_start(name: str) -> None:
    with pytest.raises(options.BadSettings, match=name) as refused:
        options.read({}, {name: "x"})
    why = (NOT_YET | NO_PROPERTIES)[name]
    assert str(refused.value) == f"{name} is set, but {why}; unset it to start without."


@pytest.mark.parametrize("name", TOLD.split())
def test_a_variable_of_the_java_machine_stops_nothing_and_is_told(name: str) -> None:
    environment = {name: "-Xss1m"}
    assert options.read({}, environment) == Settings()
    assert options.without_effect(environment) == {name: NO_EFFECT[name]}
    assert options.without_effect({name: ""}) == {}


@pytest.mark.parametrize("name", HANDED_ON.split())
def test_what_the_c_library_obeys_reaches_the_hosts(name: str) -> None:
    assert options.read({}, {name: "4"}) == Settings()
    assert options.without_effect({name: "4"}) == {}
    assert host_environment({name: "4"})[name] == "4"


def test_the_tables_hold_these_variables_and_no_others() -> None:
    """So a new row needs a decision here, and no variable has two fates."""
    ours = {field.metadata["env"] for field in fields()}
    assert set(SUPPORTED.split()) <= ours
    assert set(REFUSED.split()) == NOT_YET.keys() | NO_PROPERTIES.keys()
    assert set(TOLD.split()) == NO_EFFECT.keys()
    assert set(HANDED_ON.split()) == OBEYED.keys()
    tables = (ours, NOT_YET, NO_PROPERTIES, NO_EFFECT, OBEYED)
    assert len(set().union(*tables)) == sum(map(len, tables))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("-Xmx1g -Dtas.loading_thread_count=4", "use MM_LOADING_CONCURRENCY"),
        ("'-Dtas.janitor_freq_secs=1'", "once a minute, always"),
        ("-DMM_SVC_GRPC_PORT=9000 -Xmx1g", "set the variable of that name"),
        ("-DMM_TLS_PRIVATE_KEY_PASSPHRASE=hush", "set the variable of that name"),
        ("-Dlitelinks.ssl.enabled=true", "are not read"),
        ("-Dmm.something_new", "are not read"),
    ],
)
def test_a_property_of_modelmesh_among_the_arguments_of_the_java_machine_stops_the_start(
    arguments: str, why: str
) -> None:
    with pytest.raises(options.BadSettings, match=r"CUSTOM_JVM_ARGS has .*-D") as refused:
        options.read({}, {"CUSTOM_JVM_ARGS": arguments})
    assert why in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("arguments", ["-Xmx1g", "-XX:+UseZGC -Djava.net.preferIPv4Stack=true"])
def test_other_arguments_of_the_java_machine_are_told(arguments: str) -> None:
    environment = {"CUSTOM_JVM_ARGS": arguments}
    assert options.read({}, environment) == Settings()
    assert options.without_effect(environment).keys() == {"CUSTOM_JVM_ARGS"}


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
        {"MEM_LIMIT_MB": "1g"},
        {"INTERNAL_GRPC_PORT": "1", "INTERNAL_GRPC_SOCKET_PATH": "/s"},
        {"MM_AUTO_REGISTER_MODELS": "[]", "MM_AUTO_REGISTER_MODELS_PATH": "/f"},
        {"MM_DATAPLANE_CONFIG": "{}", "MM_DATAPLANE_CONFIG_PATH": "/f"},
        {"MM_TYPE_CONSTRAINTS": "{}", "MM_TYPE_CONSTRAINTS_PATH": "/f"},
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


def test_the_page_names_every_setting_and_the_fate_of_every_other_variable() -> None:
    page = documents.settings_page()
    assert all(f"`{field.metadata['env']}`" in page for field in fields())
    others = NOT_YET | NO_PROPERTIES | NO_EFFECT | OBEYED
    assert all(f"| `{name}` | {why} |\n" in page for name, why in others.items())


def test_every_settings_row_names_a_test_that_exists() -> None:
    missing = []
    for field in fields():
        path, _, name = field.metadata["test"].partition("::")
        source = documents.TARGET.parents[1] / path
        if not source.exists() or f"def {name}(" not in source.read_text():
            missing.append(field.name)
    assert missing == []
