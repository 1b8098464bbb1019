"""`modelmesh vmodels ...`: names that stand for one model now and for another one soon.

A command fails where what was asked for did not come about: a target that does not load is an
answer to `get` and a failure of `set --sync`.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Final

from modelmesh.cli import showing
from modelmesh.cli.calling import daemon
from modelmesh.cli.exits import BadUsage, CommandFailed, Exit
from modelmesh.cli.showing import Document, show
from modelmesh.cli.tables import clean, table
from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.pb import admin_pb2, model_mesh_pb2

_VState = model_mesh_pb2.VModelStatusInfo.VModelStatus
_ROW_KEYS = ("vmodel_id", "active_model_id", "target_model_id", "owner", "state", "reason")


def set_vmodel(args: argparse.Namespace) -> int:
    """Make it stand for a model, which is registered with it if a type is given."""
    if (args.path or args.key) and not args.type:
        raise BadUsage("set with --path or --key registers the target: it needs --type.")
    request = model_mesh_pb2.SetVModelRequest(
        vModelId=args.vmodel_id,
        targetModelId=args.model_id,
        updateOnly=args.update_only,
        autoDeleteTargetModel=args.auto_delete,
        loadNow=args.load,
        force=args.force,
        sync=args.sync,
        expectedTargetModelId=args.expect,
        owner=args.owner,
    )
    if args.type:
        info = model_mesh_pb2.ModelInfo(type=args.type, path=args.path, key=args.key)
        request.modelInfo.CopyFrom(info)
    with daemon(args.address) as there:
        answer = there.mesh.setVModel(request, timeout=args.timeout)
    show(args, _status(args.vmodel_id, answer), _status_text)
    if args.sync and (failure := _not_there(answer)) is not None:
        raise CommandFailed(failure)
    return Exit.OK


def _not_there(answer: model_mesh_pb2.VModelStatusInfo) -> Failure | None:
    """Why a caller who wanted to wait for it has not got it."""
    if answer.status == _VState.TRANSITION_FAILED:
        errors = answer.targetModelStatus.errors
        why = errors[0] if errors else "the load failed"
        message = f"{answer.activeModelId} still answers: {why}"
        return Failure(Code.FAILED_PRECONDITION, message, Fault.MODEL, Reason.LOAD_FAILED)
    status = answer.activeModelStatus
    if answer.status == _VState.DEFINED and status.status == status.LOADING_FAILED:
        why = status.errors[0] if status.errors else "the load failed"
        message = f"set, but not loaded: {why}"
        return Failure(Code.FAILED_PRECONDITION, message, Fault.MODEL, Reason.LOAD_FAILED)
    if answer.status == _VState.TRANSITIONING:
        message = f"{answer.targetModelId} is being loaded still"
        return Failure(Code.DEADLINE_EXCEEDED, message, Fault.CAPACITY, retry_after_s=10.0)
    return None


def get(args: argparse.Namespace) -> int:
    """What it stands for."""
    request = model_mesh_pb2.GetVModelStatusRequest(vModelId=args.vmodel_id, owner=args.owner)
    with daemon(args.address) as there:
        answer = there.mesh.getVModelStatus(request, timeout=args.timeout)
    show(args, _status(args.vmodel_id, answer), _status_text)
    if answer.status == _VState.NOT_FOUND:
        raise CommandFailed(Failure(Code.NOT_FOUND, "vmodel not found"))
    return Exit.OK


def delete(args: argparse.Namespace) -> int:
    """Forget it; models that were to go with it go."""
    request = model_mesh_pb2.DeleteVModelRequest(vModelId=args.vmodel_id, owner=args.owner)
    with daemon(args.address) as there:
        there.mesh.deleteVModel(request, timeout=args.timeout)
    show(args, {"vmodel_id": args.vmodel_id, "defined": False}, lambda _: "not defined now")
    return Exit.OK


def list_vmodels(args: argparse.Namespace) -> int:
    """One page of vmodels, or all of them."""
    rows: list[Document] = []
    token = args.page_token
    with daemon(args.address) as there:
        while True:
            request = admin_pb2.ListVModelsRequest(
                prefix=args.prefix, page_size=args.page_size, page_token=token
            )
            page = there.admin.ListVModels(request, timeout=args.timeout)
            rows += [{name: getattr(one, name) for name in _ROW_KEYS} for one in page.vmodels]
            token = page.next_page_token
            if not token or not args.all:
                break
    show(args, {"vmodels": rows, "next_page_token": token}, _rows_text)
    if token and not args.json:
        print(f"more: --all, or --page-token {clean(token)}", file=sys.stderr)
    return Exit.OK


def _status(vmodel_id: str, answer: model_mesh_pb2.VModelStatusInfo) -> Document:
    target = None
    if answer.HasField("targetModelStatus"):
        target = showing.status(answer.targetModelId, answer.targetModelStatus)
    active = None
    if answer.HasField("activeModelStatus"):
        active = showing.status(answer.activeModelId, answer.activeModelStatus)
    return {
        "vmodel_id": vmodel_id,
        "state": _VState.Name(answer.status),
        "active_model_id": answer.activeModelId,
        "target_model_id": answer.targetModelId,
        "owner": answer.owner,
        "active": active,
        "target": target,
    }


def _status_text(document: Document) -> str:
    lines = [str(document["state"])]
    for name in ("active", "target"):
        model = document[name]
        if model is not None:
            lines.append(f"{name}: {clean(model['model_id'])} {showing.status_text(model)}")
    if document["owner"]:
        lines.append(f"owner: {clean(document['owner'])}")
    return "\n".join(lines)


def _rows_text(document: Document) -> str:
    rows = [
        (
            row["vmodel_id"],
            row["active_model_id"],
            row["target_model_id"] if row["target_model_id"] != row["active_model_id"] else "",
            row["state"],
            row["owner"],
            row["reason"],
        )
        for row in document["vmodels"]
    ]
    return table(("VMODEL", "STANDS FOR", "SOON", "STATE", "OWNER", "WHY"), rows)


COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "set": set_vmodel,
    "get": get,
    "delete": delete,
    "list": list_vmodels,
}
