"""Steady traffic on a daemon that goes away under it: callers that go on until nobody answers.

Each caller has a connection of its own and keeps it. A call is sent, and the next one when it is
answered; the first one that is not ends its caller, which remembers why.
"""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from tests.app.client import CALL_S, Client, request_of

_BODY: Final = b'{"instances":[[1.0]]}'
_OWN_CONNECTION: Final = (("grpc.use_local_subchannel_pool", 1),)


@dataclass
class Traffic:
    """What callers have seen."""

    answered: int = 0
    ends: list[str] = field(default_factory=list)  # why each caller stopped
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self) -> None:
        with self.lock:
            self.answered += 1


@contextmanager
def traffic(daemon: Client, model_id: str, callers: int) -> Iterator[Traffic]:
    """So many callers over gRPC, and so many over REST; at the end they all have stopped."""
    seen = Traffic()
    kinds = (_over_grpc, _over_rest)
    threads = [
        threading.Thread(target=_call, args=(kind, daemon, model_id, seen), name=kind.__name__)
        for kind in kinds
        for _ in range(callers)
    ]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        for thread in threads:
            thread.join(2 * CALL_S)
    assert len(seen.ends) == len(threads)


def _call(kind: Callable[..., str], daemon: Client, model_id: str, seen: Traffic) -> None:
    end = kind(daemon, model_id, seen)
    with seen.lock:
        seen.ends.append(end)


def _over_grpc(daemon: Client, model_id: str, seen: Traffic) -> str:
    request = request_of(model_id)
    address = f"{daemon.host}:{daemon.ports['grpc']}"
    with grpc.insecure_channel(address, options=_OWN_CONNECTION) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        while True:
            try:
                infer(request, timeout=CALL_S)
            except grpc.RpcError as error:
                refusal: Any = error
                return str(refusal.code().name)
            seen.count()


def _over_rest(daemon: Client, model_id: str, seen: Traffic) -> str:
    connection = http.client.HTTPConnection(daemon.host, daemon.ports["rest"], timeout=CALL_S)
    try:
        while True:
            try:
                connection.request("POST", f"/v1/models/{model_id}:predict", _BODY)
                answer = connection.getresponse()
                answer.read()
            except OSError as error:  # RemoteDisconnected is one: closed, and not a byte of answer
                return type(error).__name__
            if answer.status != 200:
                return str(answer.status)
            seen.count()
    finally:
        connection.close()
