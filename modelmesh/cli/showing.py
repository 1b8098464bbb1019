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
_MODEL_KEYS = (
    *("model_id", "type", "path", "key", "state", "size_bytes", "last_used_ms"),
    *("tier", "reason", "warnings", "in_use"),
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
    return {**document, "warnings": list(one.warnings)}


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
    now_ms = time.time_ns() // 1_000_000
    rows = [
        (
            model["model_id"],
            model["type"],
            model["state"],
            size(model["size_bytes"]) if model["size_bytes"] else "",
            model["tier"],
            age(model["last_used_ms"], now_ms),
            "; ".join([model["reason"], *model["warnings"]]).removeprefix("; "),
        )
        for model in document["models"]
    ]
    head = ("MODEL", "TYPE", "STATE", "SIZE", "TIER", "USED", "WHY")
    return table(head, rows, right=(3,))


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
