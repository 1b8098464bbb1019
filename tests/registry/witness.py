"""Run by test_etcd_witness.py: `witness.py published|regenerated PORT` prints what etcd3 sees."""

import json
import sys
import types
import warnings
from typing import Any


def regenerate_stubs() -> None:
    """Give etcd3 our generated modules in place of its own, which today's protobuf refuses."""
    from modelmesh.pb.etcd import kv_pb2, rpc_pb2, rpc_pb2_grpc

    stubs = types.ModuleType("etcd3.etcdrpc")
    for module in (kv_pb2, rpc_pb2, rpc_pb2_grpc):
        stubs.__dict__.update({k: v for k, v in vars(module).items() if not k.startswith("__")})
    for unused in ("ClusterStub", "MaintenanceStub"):  # services that we do not speak to
        setattr(stubs, unused, lambda channel: None)
    sys.modules["etcd3.etcdrpc"] = stubs


def look(port: int) -> dict[str, Any]:
    import etcd3

    client = etcd3.client(host="127.0.0.1", port=port, timeout=30)
    seen: dict[str, Any] = {}
    for value, about in client.get_prefix("/ns/"):
        seen[about.key.decode()] = [
            value.hex(),
            about.create_revision,
            about.mod_revision,
            about.lease_id,
        ]
    leases = {entry[3] for entry in seen.values()} - {0}
    seen["lease's keys"] = [key for key, entry in seen.items() if entry[3] in leases]
    return seen


def leave(port: int) -> None:
    """Copy a value, if it is still what it was, in one transaction."""
    import etcd3

    client = etcd3.client(host="127.0.0.1", port=port, timeout=30)
    (value, _) = client.get("/ns/mm/svc/registry/m 🦊")
    client.transaction(
        compare=[client.transactions.value("/ns/mm/svc/registry/m 🦊") == value],
        success=[client.transactions.put("/ns/mm/svc/from-witness", value)],
        failure=[],
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # etcd3's own
    if sys.argv[1] == "regenerated":
        regenerate_stubs()
    print(json.dumps(look(int(sys.argv[2]))))
    if sys.argv[1] == "published":
        leave(int(sys.argv[2]))
