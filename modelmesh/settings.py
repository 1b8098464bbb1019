"""Every limit, default and environment variable, in one place, with its unit and its reason.

`Settings` is data: the command line reads environment and flags into it, rooms take from it what
they need. docs/SETTINGS.md is generated from this file (`make docs`), and each row names the test
in which changing the value changes behaviour. A flag's name is the field's name with dashes.

ModelMesh's names are kept where it has the variable; ours start with MM_ too. What became of each
variable of ModelMesh and KServe that is no setting here stands in the tables at the end: a name
that is in none of them is one of which the originals know nothing either.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

MIB = 1 << 20


def _s(default: Any, env: str, unit: str, why: str, test: str) -> Any:
    """One setting: default, environment variable, unit, reason, and the test that moves it."""
    return field(default=default, metadata={"env": env, "unit": unit, "why": why, "test": test})


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of one daemon. Zero means "decide at start" where the reason says so."""

    # --- where it listens
    host: str = _s("127.0.0.1", "MM_BIND_HOST", "address",
        "loopback unless told otherwise: no port is open to a network by accident",
        "tests/app/test_settings.py::test_host")
    grpc_port: int = _s(8033, "MM_SVC_GRPC_PORT", "port",
        "ModelMesh's convention; 0 takes a free port", "tests/app/test_settings.py::test_grpc_port")
    rest_port: int = _s(8008, "MM_REST_PORT", "port",
        "modelmesh-serving's REST proxy port; 0 takes a free port",
        "tests/app/test_settings.py::test_rest_port")
    metrics: str = _s("prometheus:port=2112;scheme=http", "MM_METRICS", "spec",
        "ModelMesh's form; `disabled` opens no port; fq_names, per_model_metrics as there",
        "tests/app/test_settings.py::test_metrics")
    probe_port: str = _s("8089", "MM_PROBE_PORT", "port",
        "ModelMesh's probe port; NONE opens none", "tests/app/test_settings.py::test_probe_port")

    # --- limits on what callers may send
    max_message_bytes: int = _s(16 * MIB, "MM_SVC_GRPC_MAX_MSG_SIZE", "bytes",
        "ModelMesh's limit, for REST bodies too", "tests/app/test_settings.py::test_max_message")
    max_headers_bytes: int = _s(8192, "MM_SVC_GRPC_MAX_HEADERS_SIZE", "bytes",
        "gRPC's default", "tests/app/test_settings.py::test_max_headers")
    max_connection_age_s: float = _s(0.0, "MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS", "seconds",
        "0 = half the shutdown timeout: only a connection that ages loses no call when the daemon"
        " leaves; negative = no limit, as ModelMesh without it",
        "tests/app/test_settings.py::test_max_connection_age")
    max_connection_age_grace_s: float = _s(0.0, "MM_SVC_GRPC_MAX_CONNECTION_AGE_GRACE_SECS",
        "seconds", "0 = no limit, as ModelMesh", "tests/app/test_settings.py::test_max_connection_age")
    max_concurrent_calls: int = _s(4096, "MM_MAX_CONCURRENT_CALLS", "calls",
        "bounds memory under overload; beyond it RESOURCE_EXHAUSTED",
        "tests/app/test_settings.py::test_max_concurrent_calls")
    max_waiting_bytes: int = _s(64 * MIB, "MM_MAX_WAITING_BYTES", "bytes",
        "bodies of calls that wait for loads, in all; beyond it RESOURCE_EXHAUSTED",
        "tests/app/test_settings.py::test_max_waiting_bytes")
    multi_parallelism: int = _s(4, "MM_MULTI_PARALLELISM", "models",
        "ModelMesh's: how many of the models that one call names are asked at a time",
        "tests/app/test_settings.py::test_multi_parallelism")
    dataplane_config: str = _s("", "MM_DATAPLANE_CONFIG", "JSON",
        "ModelMesh's: which methods callers may use on models, and where ids stand in messages;"
        " empty = every method, by its headers",
        "tests/app/test_settings.py::test_dataplane_config")
    dataplane_config_path: str = _s("", "MM_DATAPLANE_CONFIG_PATH", "path",
        "the same from a file, which may change while the daemon runs; not both",
        "tests/app/test_settings.py::test_dataplane_config_path")
    max_inflight_per_model: int = _s(0, "MM_MAX_INFLIGHT_PER_MODEL_COPY", "calls",
        "0 = 1,024 for our own hosts, max(16, 8 x maxConcurrency) for an external runtime that"
        " limits it; negative = unlimited", "tests/app/test_settings.py::test_max_inflight")
    http_idle_s: float = _s(65.0, "MM_HTTP_IDLE_SECS", "seconds",
        "KServe's keep-alive timeout", "tests/app/test_settings.py::test_http_idle")
    http_header_s: float = _s(10.0, "MM_HTTP_HEADER_SECS", "seconds",
        "a slow request head ties up a connection no longer than this",
        "tests/app/test_settings.py::test_http_header")

    # --- memory
    capacity_bytes: int = _s(0, "MM_CAPACITY_BYTES", "bytes",
        "0 = 70 % of the cgroup's or the machine's memory less the hosts' base",
        "tests/app/test_settings.py::test_capacity")
    memory_limit_bytes: int = _s(0, "MEM_LIMIT_MB", "bytes",
        "what the daemon and its hosts may take together, where that is less than the cgroup or the"
        " machine gives (variable in MiB, as in ModelMesh's start script); 0 = that alone",
        "tests/app/test_settings.py::test_memory_limit")
    default_model_size_bytes: int = _s(1 * MIB, "MM_DEFAULT_MODEL_SIZE_BYTES", "bytes",
        "reserved for a load about which nothing is known",
        "tests/app/test_settings.py::test_default_model_size")
    eviction_policy: str = _s("gdsf", "MM_EVICTION_POLICY", "gdsf | lru",
        "gdsf spares what is dear to load; lru is ModelMesh's order",
        "tests/app/test_settings.py::test_eviction_policy")
    rate_half_life_s: float = _s(600.0, "MM_RATE_HALF_LIFE_SECS", "seconds",
        "how fast a model's request rate is forgotten",
        "tests/app/test_settings.py::test_rate_half_life")

    # --- loading
    load_timeout_s: float = _s(90.0, "MM_LOAD_TIMEOUT_SECS", "seconds",
        "ModelMesh's runtimes use 90 s; then the host is ended",
        "tests/app/test_settings_runtime.py::test_load_timeout")
    predict_timeout_s: float = _s(60.0, "MM_PREDICT_TIMEOUT_SECS", "seconds",
        "a predict that takes longer is taken for hung and its host is ended",
        "tests/app/test_settings_runtime.py::test_predict_timeout")
    load_concurrency: int = _s(0, "MM_LOADING_CONCURRENCY", "loads",
        "0 = twice the shared hosts, at least 4; an external runtime says its own",
        "tests/app/test_settings.py::test_load_concurrency")
    load_failure_expiry_s: float = _s(900.0, "MM_LOAD_FAILURE_EXPIRY_TIME_MS", "seconds",
        "ModelMesh's 15 minutes (its variable is in milliseconds)",
        "tests/app/test_settings.py::test_load_failure_expiry")
    max_load_failures: int = _s(3, "MM_MAX_LOAD_FAILURES", "attempts",
        "ModelMesh's bound on attempts within the expiry",
        "tests/app/test_settings.py::test_max_load_failures")
    space_wait_s: float = _s(180.0, "MM_SPACE_WAIT_SECS", "seconds",
        "ModelMesh's bound on a load's wait for room in the cache",
        "tests/app/test_settings.py::test_space_wait")
    max_queued_loads: int = _s(1024, "MM_MAX_QUEUED_LOADS", "loads",
        "models that wait for a load; beyond it RESOURCE_EXHAUSTED",
        "tests/app/test_settings.py::test_max_queued_loads")

    # --- model hosts
    tier: str = _s("auto", "MM_TIER", "auto | inline | shared | process",
        "where models run; `auto` lets policy decide, `inline` is the operator's choice only",
        "tests/app/test_settings_runtime.py::test_tier")
    shared_hosts: int = _s(0, "MM_SHARED_HOSTS", "hosts",
        "0 = cores - 1, from 1 to 8", "tests/app/test_settings_runtime.py::test_shared_hosts")
    shared_file_bytes: int = _s(1 * MIB, "MM_SHARED_FILE_BYTES", "bytes",
        "files up to this size start in a shared host",
        "tests/app/test_settings_runtime.py::test_shared_file_bytes")
    set_aside_s: float = _s(0.25, "MM_SET_ASIDE_MS", "seconds",
        "a shared host busy with one entry for longer loses its other models; time for which the"
        " machine had no CPU for it does not count (variable in ms)",
        "tests/app/test_settings_runtime.py::test_set_aside")
    quarantine_crashes: int = _s(3, "MM_QUARANTINE_CRASHES", "crashes",
        "so many hosts lost within the failure expiry put a model into quarantine",
        "tests/app/test_settings_runtime.py::test_quarantine_crashes")
    runtimes: str = _s("", "MM_RUNTIMES", "module:Class,...",
        "further runtimes, beside those found by entry point",
        "tests/app/test_settings_runtime.py::test_runtimes")
    predict_proba: bool = _s(False, "PREDICT_PROBA", "bool",
        "KServe's sklearn switch: answer probabilities where the model has them",
        "tests/app/test_settings_runtime.py::test_predict_proba")
    model_threads: int = _s(1, "MM_MODEL_THREADS", "threads",
        "OpenMP and BLAS threads of a host: hosts are the unit of parallelism",
        "tests/app/test_settings_runtime.py::test_model_threads")

    # --- an external runtime
    runtime_port: int = _s(0, "INTERNAL_GRPC_PORT", "port",
        "a model server's ModelRuntime port on this machine; 0 = our own hosts",
        "tests/app/test_settings_runtime.py::test_runtime_port")
    runtime_socket: str = _s("", "INTERNAL_GRPC_SOCKET_PATH", "path",
        "the same over a socket; not both", "tests/app/test_settings_runtime.py::test_runtime_socket")
    serving_port: int = _s(0, "INTERNAL_SERVING_GRPC_PORT", "port",
        "where that server serves, if elsewhere", "tests/app/test_settings_runtime.py::test_serving_port")
    serving_socket: str = _s("", "INTERNAL_SERVING_GRPC_SOCKET_PATH", "path",
        "the same over a socket; not both", "tests/app/test_settings_runtime.py::test_serving_socket")
    runtime_start_s: float = _s(180.0, "MM_RUNTIME_START_SECS", "seconds",
        "ModelMesh's bound on a runtime's start", "tests/app/test_settings_runtime.py::test_runtime_start")

    # --- registry
    kv_store: str = _s("", "KV_STORE", "memory | sqlite:PATH | etcd:WHERE",
        "where registrations live; empty = sqlite in the data folder; with etcd (a JSON file or"
        " endpoints, as ModelMesh) this daemon is one of a fleet",
        "tests/app/test_settings.py::test_kv_store")
    kvstore_prefix: str = _s("tas-runtime", "MM_KVSTORE_PREFIX", "name",
        "ModelMesh's default; modelmesh-serving sets mm",
        "tests/app/test_settings_fleet.py::test_the_fleet_is_found_below_its_prefix_and_name")
    service_name: str = _s("model-mesh", "MM_SERVICE_NAME", "name",
        "the fleet: daemons that share it share their models",
        "tests/app/test_settings_fleet.py::test_the_fleet_is_found_below_its_prefix_and_name")
    data_dir: str = _s("data", "MM_DATA_DIR", "path",
        "registrations and nothing else", "tests/app/test_settings.py::test_data_dir")
    auto_register: str = _s("", "MM_AUTO_REGISTER_MODELS", "JSON",
        "ModelMesh's static registration: a list of {modelId, modelInfo, ensureLoaded,"
        " vModelId, retainAfterTransition}",
        "tests/app/test_settings.py::test_auto_register")
    auto_register_path: str = _s("", "MM_AUTO_REGISTER_MODELS_PATH", "path",
        "the same from a file; not both", "tests/app/test_settings.py::test_auto_register_path")
    default_vmodel_owner: str = _s("", "MM_DEFAULT_VMODEL_OWNER", "name",
        "the owner of vmodels that are made without one, as in ModelMesh",
        "tests/app/test_vmodels.py::test_vmodels_over_grpc_and_rest")

    # --- fleet
    peer_port: int = _s(8034, "MM_PEER_PORT", "port",
        "where other daemons call; opened in a fleet only; 0 takes a free port",
        "tests/app/test_settings_fleet.py::test_peer_port")
    peer_host: str = _s("", "WKUBE_POD_IPADDR", "address",
        "the address of the peer port, which is published; empty = MM_BIND_HOST",
        "tests/app/test_settings_fleet.py::test_peer_host")
    peer_address: str = _s("", "MM_PEER_ADDRESS", "address:port",
        "what is published instead, where the others reach the peer port under another address:"
        " behind a port mapping or a proxy",
        "tests/app/test_settings_fleet.py::test_peer_address")
    skew: bool = _s(False, "MM_SKEW", "bool",
        "for tests of a fleet of several versions: write what a later one may write, fields and"
        " headers that this one does not know, and a higher version",
        "tests/fleet/test_identity.py::test_daemons_of_several_versions")
    lease_s: float = _s(30.0, "MM_LEASE_SECS", "seconds",
        "how long a daemon that does not say so any more still counts as one of the fleet; who"
        " answers is found out in a second",
        "tests/app/test_settings_fleet.py::test_lease")
    zone: str = _s("", "MM_ZONE", "name",
        "copies in the own zone are asked first",
        "tests/app/test_settings_fleet.py::test_place_and_labels_are_published")
    location: str = _s("", "MM_LOCATION", "name", "published, as ModelMesh does",
        "tests/app/test_settings_fleet.py::test_place_and_labels_are_published")
    labels: str = _s("", "MM_LABELS", "names",
        "what this daemon can do, for type constraints; separated by commas",
        "tests/app/test_settings_fleet.py::test_place_and_labels_are_published")
    scaleup_rpm: int = _s(2000, "MM_SCALEUP_RPM_THRESHOLD", "calls/minute",
        "ModelMesh's: more of them at one copy make another one; the key scaleup_rpm_threshold of"
        " the dynamic configuration goes before it",
        "tests/app/test_settings_fleet.py::test_a_busy_model_gets_more_copies")
    bandwidth_pct: int = _s(90, "MM_CONC_SCALEUP_BANDWIDTH_PCT", "percent",
        "ModelMesh's: how much of what a copy can run at once it should be busy at most",
        "tests/app/test_settings_fleet.py::test_a_crowded_model_gets_more_copies")
    type_constraints: str = _s("", "MM_TYPE_CONSTRAINTS", "JSON",
        "which labels a model type requires or prefers, as ModelMesh",
        "tests/app/test_settings_fleet.py::test_a_type_goes_where_its_labels_are")
    type_constraints_path: str = _s("", "MM_TYPE_CONSTRAINTS_PATH", "path",
        "the same from a file, which may change while the daemon runs; not both",
        "tests/app/test_settings_fleet.py::test_constraints_are_read_again_when_their_file_changes")

    # --- operation
    instance_id: str = _s("", "MM_INSTANCE_ID", "name",
        "empty = the last 12 characters of the pod's or the host's name, as ModelMesh",
        "tests/app/test_settings.py::test_instance_id")
    pod_name: str = _s("", "WKUBE_POD_NAME", "name",
        "its last 12 characters are the instance's id unless that is given, as in ModelMesh: needed"
        " where the host's name is the node's",
        "tests/app/test_settings.py::test_pod_name")
    shutdown_timeout_s: float = _s(30.0, "SHUTDOWN_TIMEOUT_MS", "seconds",
        "SIGTERM ends running calls within this (variable in ms, as in ModelMesh's start script)",
        "tests/app/test_settings.py::test_shutdown_timeout")
    log_level: str = _s("info", "MM_LOG_LEVEL", "debug | info | warning | error",
        "what is logged", "tests/app/test_settings.py::test_log_level")
    log_format: str = _s("auto", "MM_LOG_FORMAT", "auto | json | text",
        "auto = text on a terminal, JSON elsewhere", "tests/app/test_settings.py::test_log_format")
    log_each_invoke: bool = _s(False, "MM_LOG_EACH_INVOKE", "bool",
        "ModelMesh's switch: one line per runtime call",
        "tests/app/test_settings.py::test_log_each_invoke")
    status_codes: str = _s("contract", "MM_STATUS_CODES", "contract | modelmesh",
        "`modelmesh` answers INTERNAL where the original does",
        "tests/app/test_settings.py::test_status_codes")


def fields() -> tuple[dataclasses.Field[Any], ...]:
    """Every setting in the order of the documentation."""
    return dataclasses.fields(Settings)


# Known names of ModelMesh and KServe that this version does not support: a start with one of them
# set stops with one sentence, since ignoring it would surprise (TLS off, requests unlogged).
NOT_YET = {
    "MM_TLS_PRIVATE_KEY_PATH": "TLS comes with the wire",
    "MM_TLS_PRIVATE_KEY_PASSPHRASE": "TLS comes with the wire",
    "MM_TLS_KEY_CERT_PATH": "TLS comes with the wire",
    "MM_TLS_CLIENT_AUTH": "TLS comes with the wire",
    "MM_TLS_TRUST_CERT_PATH": "TLS comes with the wire",
    "MM_SVC_GRPC_PRIVATE_KEY_PATH": "TLS comes with the wire",
    "MM_SVC_GRPC_PRIVATE_KEY_PASSPHRASE": "TLS comes with the wire",
    "MM_SVC_GRPC_CA_CERT_PATH": "TLS comes with the wire",
    "MM_ENABLE_SSL": "TLS comes with the wire",
    "MM_INTRACLUSTER_CLIENTAUTH": "TLS comes with the wire",
    "MM_INTERNAL_TRUST_CERTS": "TLS comes with the wire",
    "MM_TRUST_CERTS": "TLS comes with the wire",
    "MM_PAYLOAD_PROCESSORS": "payload processors are not built yet",
    "MM_PAYLOAD_PROCESSORS_THREADS": "payload processors are not built yet",
    "MM_PAYLOAD_PROCESSORS_CAPACITY": "payload processors are not built yet",
    "MM_LOG_REQUEST_HEADERS": "header logging is not built yet",
    "MM_INFO_METRICS": "info metrics are not built yet",
    "KV_READ_ONLY": "migration mode is not built yet",
    "ZOOKEEPER": "Zookeeper is not supported: use KV_STORE=etcd:...",
    "LL_REGISTRY": "litelinks is not supported: use KV_STORE=etcd:...",
    "MM_SERVICE_CLASS": "there are no other classes of service",
    "MM_SEND_DEST_ID": "litelinks is not supported: a daemon always calls the one that it has chosen",
    "BOOTSTRAP_CLEARANCE_PERIOD_MS": "a new daemon waits for those that leave, two minutes at most, always",
    "MM_FAILFAST_UPGRADE_ENABLED": "ending an upgrade by a failing start is not built yet",
    "MM_PRESTOP_WAIT_PORT": "waiting before a stop is not built: SIGTERM hands copies over",
    "MM_LOG_PROMETHEUS_REQS": "logging of scrapes is not built yet",
    "MM_AUTO_REGISTER_MODEL": "use MM_AUTO_REGISTER_MODELS, which takes one model too",
    "MM_AUTO_REGISTER_MODEL_PATH": "use MM_AUTO_REGISTER_MODELS_PATH, which takes one model too",
    "TAS_SERVICE_NAME": "use MM_SERVICE_NAME",
    "TAS_SVC_GRPC_PORT": "use MM_SVC_GRPC_PORT",
    "TAS_SVC_GRPC_PRIVATE_KEY_PATH": "TLS comes with the wire",
    "TAS_SVC_GRPC_CA_CERT_PATH": "TLS comes with the wire",
    "WKUBE_NODE_IP": "use MM_LOCATION",
    "WKUBE_NODE_NAME": "use MM_LOCATION",
    "WKUBE_SERVICE_NAME": "daemons call each other by WKUBE_POD_IPADDR and MM_PEER_PORT",
    "WKUBE_SERVICE_PORT_NAME": "daemons call each other by WKUBE_POD_IPADDR and MM_PEER_PORT",
    "SERVICE_VERSION": "the version that others see is this program's own",
    "CE_TYPE": "CloudEvents are not built yet",
    "CE_SOURCE": "CloudEvents are not built yet",
    "CE_MERGE": "CloudEvents are not built yet",
    "STORAGE_URI": "one-model mode is not built yet: register the model",
    "STORAGE_CONFIG": "remote storage is not built yet",
}

# ModelMesh's system properties: its users set them inside CUSTOM_JVM_ARGS (a variable of the same
# name, which Kubernetes allows, is refused likewise).
NO_PROPERTIES = {
    "tas.min_churn_age_ms": "a model's minimum residency is ten times its own load time, always",
    "tas.janitor_freq_secs": "what the registry says of a daemon is looked through once a minute, always",
    "tas.ratecheck_freq_ms": "copies are judged every ten seconds, always",
    "mm.min_second_copy_age_secs": "a second copy comes for uses 7 to 40 minutes apart, always",
    "mm.max_second_copy_age_secs": "a second copy comes for uses 7 to 40 minutes apart, always",
    "tas.loading_thread_count": "use MM_LOADING_CONCURRENCY",
}

# What can mean nothing here, because it tunes a Java program, and promises nothing about what is
# served: the start goes on and says so in one line of the log. To refuse these would stop everyone
# who brings a manifest along, and there is nothing that they could set instead.
NO_EFFECT = {
    "HEAP_SIZE_MB": "there is no Java heap",
    "MAX_GC_PAUSE": "there is no Java garbage collector",
    "MAX_DIRECT_BUFS_MB": "there is no Netty; MM_MAX_WAITING_BYTES bounds bodies that wait",
    "NETTY_BUFFER_CHECKS": "there is no Netty",
    "GC_DIAG": "there is no Java garbage collector",
    "CUSTOM_JVM_ARGS": "there is no Java virtual machine",
}

# What others obey in our stead.
OBEYED = {
    "MALLOC_ARENA_MAX": "the C library reads it, in the daemon and in its hosts, which are given it",
}
