"""How long a stop takes where connections have the age that an operator's defaults give them, half
the bound: clients that are merely connected hold up nothing, and one that calls in the middle of it
is answered or sent elsewhere. (The bound is longer here, so that a slow machine is far below.)"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import grpc
import pytest

from modelmesh.settings import Settings
from tests.app.client import CALL_S, ever_longer, refusal_of, request_of, until
from tests.app.daemon import Child, child

# Idle connections leave within a second, and processes take their time to end on a busy machine.
IDLE_STOP_S: Final = 40.0
BOUND_S: Final = 300.0
INFER: Final = "/inference.GRPCInferenceService/ModelInfer"
DEFAULT_AGE: Final = {
    "MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS": "0",
    "SHUTDOWN_TIMEOUT_MS": f"{BOUND_S * 1000:.0f}",
}


@contextmanager
def connected(daemon: Child, count: int) -> Iterator[list[grpc.Channel]]:
    """So many channels, each with a connection of its own that has carried a call."""
    alone = (("grpc.use_local_subchannel_pool", 1),)
    target = f"{daemon.host}:{daemon.ports['grpc']}"
    channels = [grpc.insecure_channel(target, alone) for _ in range(count)]
    try:
        for channel in channels:
            assert channel.unary_unary(INFER)(request_of("m"), timeout=CALL_S)
        yield channels
    finally:
        for channel in channels:
            channel.close()


def test_the_age_of_connections_is_far_beyond_what_is_asked_for_here() -> None:
    assert Settings().max_connection_age_s == 0.0  # half the bound is its age then
    assert BOUND_S / 2 > 2 * IDLE_STOP_S


@pytest.mark.parametrize("connections", [1, 20])
def test_idle_connections_hold_up_no_stop(connections: int) -> None:
    with child(**DEFAULT_AGE) as daemon:
        daemon.dummies("m")
        with connected(daemon, connections) as channels:
            daemon.process.signal(signal.SIGTERM)
            assert daemon.process.wait(IDLE_STOP_S) == 0
            for channel in channels:
                late = channel.unary_unary(INFER).future(request_of("m"), timeout=CALL_S)
                assert refusal_of(late).code == "UNAVAILABLE"


def test_who_calls_during_the_stop_is_answered_or_sent_elsewhere() -> None:
    """One long call keeps the daemon up; others come over connections that were idle."""
    for predict_s in ever_longer(2.0):
        with child(**DEFAULT_AGE) as daemon:
            daemon.dummies("m")
            daemon.dummies("long", predict_s=predict_s)
            daemon.load("long")
            with connected(daemon, 10) as channels:
                long = daemon.begin("long", timeout_s=BOUND_S)
                until(lambda: long.done() or daemon.models()["long"].in_use == 1)  # noqa: B023
                if long.done():
                    continue
                daemon.process.signal(signal.SIGTERM)
                assert _refusals(channels) == ["UNAVAILABLE"] * len(channels)
                assert long.exception() is None
                assert daemon.process.wait(IDLE_STOP_S) == 0
                return


def _refusals(channels: list[grpc.Channel]) -> list[str]:
    """How those are refused in the end who call on and on over these, each at a pace of its own."""
    ends: list[str] = []
    threads = [
        threading.Thread(target=_call_on, args=(channel, n * 0.01, ends))
        for n, channel in enumerate(channels)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * CALL_S)
    return ends


def _call_on(channel: grpc.Channel, pause_s: float, ends: list[str]) -> None:
    """Call until the first refusal, and note it."""
    paused = threading.Event()
    while True:
        call = channel.unary_unary(INFER).future(request_of("m"), timeout=CALL_S)
        if call.exception() is not None:
            ends.append(refusal_of(call).code)
            return
        paused.wait(pause_s)
