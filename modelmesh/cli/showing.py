"""What a daemon answered, as a document with stable keys and as text for people.

`--json` prints the document; its keys are the names of admin.proto and a public contract. The text
is for eyes and may change. Nothing here asks or decides anything.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from modelmesh.cli.tables import age, clean, size, table
from modelmesh.pb import admin_pb2, model_mesh_pb2

Document = dict[str, Any]

_State = model_mesh_pb2.ModelStatusInfo.ModelStatus
_POLICY_KEYS = ("min_copies", "max_copies", "pinned", "priority")
_MODEL_KEYS = (
    *("model_id", "type", "path", "key", "state", "size_bytes", "last_used_ms"),
    *("tier", "reason", "warnings", "in_use", "instances", *_POLICY_KEYS),
)
_INSTANCE_KEYS = (
    *("instance_id", "address", "zone", "location", "labels", "capacity_bytes", "used_bytes"),
    *("models", "loading", "calls_per_minute", "draining", "health"),
)
_RESULT_KEYS = ("model_id", "error", "code")
_EXPLANATION_KEYS = (
    *("model_id", "state", "decision", "reason"),
    *("capacity_bytes", "reserved_bytes", "debt_bytes"),
)
_CANDIDATE_KEYS = ("model_id", "worth", "size_bytes", "verdict")


# --- what was answered, as documents


def status(model_id: str, answer: model_mesh_pb2.ModelStatusInfo) -> Document:
    """Where a model stands."""
    copies = [
        {"location": c.location, "status": _State.Name(c.copyStatus), "time_ms": c.time}
        for c in answer.modelCopyInfos
    ]
    return {
        "model_id": model_id,
        "status": _State.Name(answer.status),
        "errors": list(answer.errors),
        "copies": copies,
    }


def model(one: admin_pb2.Model) -> Document:
    """One row of a listing."""
    document = {name: getattr(one, name) for name in _MODEL_KEYS}
    return {**document, "warnings": list(one.warnings), "instances": list(one.instances)}


def policy(one: admin_pb2.Model) -> Document:
    """What is wished for a model."""
    return {name: getattr(one, name) for name in ("model_id", *_POLICY_KEYS)}


def event(one: admin_pb2.ModelEvent) -> Document:
    """One change; the first event of a watch has no model."""
    document = {"event": admin_pb2.ModelEvent.Kind.Name(one.kind)}
    return {**document, "model": model(one.model)} if one.HasField("model") else document


def instance(one: admin_pb2.ListInstancesResponse.Instance) -> Document:
    """One daemon of the fleet."""
    document = {name: getattr(one, name) for name in _INSTANCE_KEYS}
    return {**document, "labels": list(one.labels)}


def explanation(answer: admin_pb2.ExplainModelResponse) -> Document:
    """What a request for the model would meet."""
    document = {name: getattr(answer, name) for name in _EXPLANATION_KEYS}
    document["eviction_order"] = [
        {name: getattr(one, name) for name in _CANDIDATE_KEYS} for one in answer.eviction_order
    ]
    return document


def result(one: admin_pb2.RegisterModelsResponse.Result) -> Document:
    """What became of one registration of many."""
    return {name: getattr(one, name) for name in _RESULT_KEYS}


# --- documents, as text


def show(args: argparse.Namespace, document: Document, text: Callable[[Document], str]) -> None:
    """Print the document as the caller asked for it."""
    print(json.dumps(document, ensure_ascii=False) if args.json else text(document))


def status_text(document: Document) -> str:
    now_ms = time.time_ns() // 1_000_000
    lines = [document["status"]]
    lines += [
        f"  {clean(copy['location'])}: {copy['status']}, {age(copy['time_ms'], now_ms)}"
        for copy in document["copies"]
    ]
    return "\n".join(lines + [f"  {clean(error)}" for error in document["errors"]])


def models_text(document: Document) -> str:
    """A fleet's rows say where too."""
    now_ms = time.time_ns() // 1_000_000
    in_fleet = any(model["instances"] for model in document["models"])
    rows = [
        (
            model["model_id"],
            model["type"],
            model["state"],
            *([" ".join(model["instances"])] if in_fleet else []),
            size(model["size_bytes"]) if model["size_bytes"] else "",
            model["tier"],
            age(model["last_used_ms"], now_ms),
            "; ".join([model["reason"], *model["warnings"]]).removeprefix("; "),
        )
        for model in document["models"]
    ]
    where = ("WHERE",) if in_fleet else ()
    head = ("MODEL", "TYPE", "STATE", *where, "SIZE", "TIER", "USED", "WHY")
    return table(head, rows, right=(3 + in_fleet,))


def policy_text(document: Document) -> str:
    most = document["max_copies"] or "any number"
    pinned = ", pinned" if document["pinned"] else ""
    copies = f"{document['min_copies']} to {most} copies"
    return f"{clean(document['model_id'])}: {copies}, priority {document['priority']}{pinned}"


def event_text(document: Document) -> str:
    if "model" not in document:
        return "watching"
    model = document["model"]
    where = f" on {' '.join(model['instances'])}" if model["instances"] else ""
    return clean(
        f"{document['event'].lower()} {model['model_id']} {model['state']}{where}".rstrip()
    )


def instances_text(document: Document) -> str:
    rows = [
        (
            one["instance_id"],
            one["health"] + (", leaving" if one["draining"] else ""),
            one["address"],
            one["zone"],
            str(one["models"]),
            size(one["used_bytes"]),
            size(one["capacity_bytes"]),
            str(one["calls_per_minute"]),
            " ".join(one["labels"]),
        )
        for one in document["instances"]
    ]
    names = ("INSTANCE", "HEALTH", "ADDRESS", "ZONE", "MODELS", "USED", "OF", "CALLS/MIN", "LABELS")
    return table(names, rows, right=(4, 5, 6, 7))


def results_text(document: Document) -> str:
    count = f"{document['registered']} registered, {document['refused']} refused"
    refused = [result for result in document["results"] if result["error"]]
    if not refused:
        return count
    rows = [(result["model_id"], result["code"], result["error"]) for result in refused]
    return f"{table(('MODEL', 'CODE', 'ERROR'), rows)}\n{count}"


def explanation_text(document: Document) -> str:
    free = f"{size(document['reserved_bytes'])} of {size(document['capacity_bytes'])} reserved"
    lines = [
        f"{document['state']}: {document['decision']} ({clean(document['reason'])})",
        f"memory: {free}, {size(document['debt_bytes'])} of debt",
    ]
    if document["eviction_order"]:
        rows = [
            (one["model_id"], f"{one['worth']:.3g}", size(one["size_bytes"]), one["verdict"])
            for one in document["eviction_order"]
        ]
        head = ("NEXT TO GO", "WORTH", "SIZE", "VERDICT")
        lines.append(table(head, rows, right=(1, 2)))
    return "\n".join(lines)
