"""`modelmesh models ...`: what an operator does with models, over gRPC.

Each command asks the daemon and shows the answer (showing.py). A command fails where what was asked
for did not come about; that a model failed to load is an answer to `status`, a failure of `--sync`.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from modelmesh.cli import registrations, showing
from modelmesh.cli.calling import daemon
from modelmesh.cli.exits import BadUsage, CommandFailed, Exit
from modelmesh.cli.files import read_text
from modelmesh.cli.showing import Document, show
from modelmesh.cli.tables import clean
from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.pb import admin_pb2, inference_pb2, model_mesh_pb2

_State = model_mesh_pb2.ModelStatusInfo.ModelStatus


def register(args: argparse.Namespace) -> int:
    """Register one model, or every model of a file."""
    if args.file is not None:
        if args.model_id or args.type or args.load or args.sync:
            raise BadUsage("register takes either an ID with --type, or --file alone.")
        return _register_file(args)
    if not args.model_id or not args.type:
        raise BadUsage("register needs an ID and --type, or --file.")
    request = model_mesh_pb2.RegisterModelRequest(
        modelId=args.model_id,
        modelInfo={"type": args.type, "path": args.path, "key": args.key},
        loadNow=args.load or args.sync,
        sync=args.sync,
    )
    with daemon(args.address) as there:
        answer = there.mesh.registerModel(request, timeout=args.timeout)
    show(args, showing.status(args.model_id, answer), showing.status_text)
    if answer.status == _State.LOADING_FAILED:
        raise CommandFailed(_load_failed(answer))
    return Exit.OK


def _load_failed(answer: model_mesh_pb2.ModelStatusInfo) -> Failure:
    why = answer.errors[0] if answer.errors else "the load failed"
    message = f"registered, but not loaded: {why}"
    return Failure(Code.FAILED_PRECONDITION, message, Fault.MODEL, Reason.LOAD_FAILED)


def _register_file(args: argparse.Namespace) -> int:
    items = registrations.read(read_text(args.file))
    results: list[Document] = []
    with _counting(results, len(items)), daemon(args.address) as there:
        for batch in registrations.batches(items):
            request = admin_pb2.RegisterModelsRequest(models=batch)
            answer = there.admin.RegisterModels(request, timeout=args.timeout)
            results += [showing.result(result) for result in answer.results]
    refused = [result for result in results if result["error"]]
    document = {"registered": len(results) - len(refused), "refused": len(refused)}
    show(args, {**document, "results": results}, showing.results_text)
    return Exit.FAILED if refused else Exit.OK


@contextmanager
def _counting(results: list[Document], total: int) -> Iterator[None]:
    """A failure says how much of the file was answered before it."""
    try:
        yield
    except CommandFailed as error:
        message = f"{error.failure.message}, after {len(results)} of {total} models"
        failure = replace(error.failure, message=message)
        raise CommandFailed(failure, error.status, error.hint) from None


def list_models(args: argparse.Namespace) -> int:
    """One page of models, or all of them."""
    models: list[Document] = []
    token = args.page_token
    with daemon(args.address) as there:
        while True:
            request = admin_pb2.ListModelsRequest(
                prefix=args.prefix, page_size=args.page_size, page_token=token
            )
            page = there.admin.ListModels(request, timeout=args.timeout)
            models += [showing.model(model) for model in page.models]
            token = page.next_page_token
            if not token or not args.all:
                break
    show(args, {"models": models, "next_page_token": token}, showing.models_text)
    if token and not args.json:
        print(f"more: --all, or --page-token {clean(token)}", file=sys.stderr)
    return Exit.OK


def status(args: argparse.Namespace) -> int:
    """Where one model stands."""
    request = model_mesh_pb2.GetStatusRequest(modelId=args.model_id)
    with daemon(args.address) as there:
        answer = there.mesh.getModelStatus(request, timeout=args.timeout)
    show(args, showing.status(args.model_id, answer), showing.status_text)
    if answer.status == _State.NOT_FOUND:
        raise CommandFailed(Failure(Code.NOT_FOUND, "model not found"))
    return Exit.OK


def load(args: argparse.Namespace) -> int:
    """Load one model and wait for the outcome; failures that the daemon remembers are forgotten."""
    request = inference_pb2.RepositoryModelLoadRequest(model_name=args.model_id)
    with daemon(args.address) as there:
        there.inference.RepositoryModelLoad(request, timeout=args.timeout)
        asked = model_mesh_pb2.GetStatusRequest(modelId=args.model_id)
        answer = there.mesh.getModelStatus(asked, timeout=args.timeout)
    show(args, showing.status(args.model_id, answer), showing.status_text)
    return Exit.OK


def unload(args: argparse.Namespace) -> int:
    """Give one model's memory back."""
    request = admin_pb2.UnloadModelRequest(model_id=args.model_id)
    with daemon(args.address) as there:
        answer = there.admin.UnloadModel(request, timeout=args.timeout)
    document = {"model_id": args.model_id, "was_loaded": answer.was_loaded}
    show(args, document, lambda d: "unloaded" if d["was_loaded"] else "was not loaded")
    return Exit.OK


def unregister(args: argparse.Namespace) -> int:
    """Forget one model."""
    request = model_mesh_pb2.UnregisterModelRequest(modelId=args.model_id)
    with daemon(args.address) as there:
        there.mesh.unregisterModel(request, timeout=args.timeout)
    show(args, {"model_id": args.model_id, "registered": False}, lambda _: "not registered now")
    return Exit.OK


def explain(args: argparse.Namespace) -> int:
    """What a request for one model would meet."""
    request = admin_pb2.ExplainModelRequest(model_id=args.model_id)
    with daemon(args.address) as there:
        answer = there.admin.ExplainModel(request, timeout=args.timeout)
    show(args, showing.explanation(answer), showing.explanation_text)
    return Exit.OK


def policy(args: argparse.Namespace) -> int:
    """Wish for one model; without a wish, show those that it has."""
    names = ("min_copies", "max_copies", "pinned", "priority")
    wishes = {name: value for name in names if (value := getattr(args, name)) is not None}
    if any(wishes.get(name, 0) < 0 for name in ("min_copies", "max_copies")):
        raise BadUsage("copies must not be negative.")
    request = admin_pb2.SetModelPolicyRequest(model_id=args.model_id, **wishes)
    with daemon(args.address) as there:
        answer = there.admin.SetModelPolicy(request, timeout=args.timeout)
    show(args, showing.policy(answer.model), showing.policy_text)
    return Exit.OK


def watch(args: argparse.Namespace) -> int:
    """A line for each change. No bound on the wait: nothing may change for days."""
    told = 0
    with daemon(args.address) as there:
        for event in there.admin.WatchModels(admin_pb2.WatchModelsRequest(prefix=args.prefix)):
            if event.kind != admin_pb2.ModelEvent.WATCHING:
                told += 1
            show(args, showing.event(event), showing.event_text)
            sys.stdout.flush()
            if told and told == args.events:
                break
    return Exit.OK


COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "register": register,
    "list": list_models,
    "status": status,
    "load": load,
    "unload": unload,
    "unregister": unregister,
    "explain": explain,
    "policy": policy,
    "watch": watch,
}
