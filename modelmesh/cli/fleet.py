"""`modelmesh instances`, `modelmesh accept-restore`: the fleet as one of its daemons knows it."""

import argparse

from modelmesh.cli import showing
from modelmesh.cli.calling import daemon
from modelmesh.cli.exits import Exit
from modelmesh.cli.showing import Document, show
from modelmesh.pb import admin_pb2


def instances(args: argparse.Namespace) -> int:
    """Every daemon of the fleet."""
    with daemon(args.address) as there:
        request = admin_pb2.ListInstancesRequest()
        answer = there.admin.ListInstances(request, timeout=args.timeout)
    document = {"instances": [showing.instance(each) for each in answer.instances]}
    show(args, document, showing.instances_text)
    return Exit.OK


def accept_restore(args: argparse.Namespace) -> int:
    """Have the restored store as it is."""
    with daemon(args.address) as there:
        request = admin_pb2.AcceptRestoreRequest()
        answer = there.admin.AcceptRestore(request, timeout=args.timeout)
    show(args, {"dropped": answer.dropped}, _dropped)
    return Exit.OK


def _dropped(document: Document) -> str:
    count = document["dropped"]
    return f"{count} entries dropped" if count else "nothing had been kept"
