"""`modelmesh infer`: one JSON request from a file, over REST, the answer on stdout as it came."""

import argparse
import http.client
import json
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from modelmesh.cli.exits import BadUsage, CommandFailed, Exit, too_late, unreachable
from modelmesh.cli.files import read_text
from modelmesh.wire.http1_heads import failure_of

_PATHS = {"v1": "/v1/models/{}:predict", "v2": "/v2/models/{}/infer"}


def infer(args: argparse.Namespace) -> int:
    """Ask the model; its answer goes to stdout."""
    body = read_text(args.file)
    path = _PATHS[args.protocol or _protocol(body)].format(quote(args.model_id, safe=""))
    print(_post(args.rest, path, body.encode(), args.timeout))
    return Exit.OK


def _protocol(body: str) -> str:
    """V2 where the inputs are named tensors; V1 knows `inputs` too, as bare values."""
    try:
        request: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadUsage(f"the request is not JSON: {error}") from None
    if not isinstance(request, dict) or not request.keys() & {"instances", "inputs"}:
        raise BadUsage('the request has neither "instances" (V1) nor "inputs" (V2)')
    inputs = request.get("inputs")
    tensors = isinstance(inputs, list) and all(
        isinstance(tensor, dict) and "datatype" in tensor for tensor in inputs
    )
    return "v2" if tensors and "instances" not in request else "v1"


def _post(address: str, path: str, body: bytes, timeout_s: float) -> str:
    host, port = _endpoint(address)
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    except TimeoutError:
        raise too_late(address) from None
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(address, getattr(error, "strerror", None) or repr(error)) from None
    except ValueError as error:  # a host that no name service would take
        raise BadUsage(f"--rest {address}: {error}") from None
    finally:
        connection.close()
    if response.status != HTTPStatus.OK:
        headers = {name.lower(): value for name, value in response.getheaders()}
        raise CommandFailed(failure_of(response.status, headers, answer))
    return answer.decode("utf-8", "replace")


def _endpoint(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise BadUsage(f"--rest must be HOST:PORT, not {address!r}")
    return host.strip("[]"), int(port)
