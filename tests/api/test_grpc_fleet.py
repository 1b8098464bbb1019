"""modelmesh.admin.v1.Admin: wishes for models, watches, instances, and a restore accepted."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.api.watching import Watching
from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code, Reason
from modelmesh.pb import admin_pb2 as pb
from modelmesh.serving.status import Health, InstanceView
from modelmesh.wire.transport import Call
from tests.api.fakes import (
    Inbound,
    Reader,
    Rooms,
    Stream,
    call,
    grpc_port,
    refused,
    rooms,
    stream,
    until,
)

SERVICE = "/modelmesh.admin.v1.Admin/"
WATCH = SERVICE + "WatchModels"
KIND = pb.ModelEvent


# --- wishes


async def policy(daemon: Rooms, **wishes: object) -> pb.Model:
    asked = pb.SetModelPolicyRequest(model_id="m", **wishes)  # type: ignore[arg-type]
    said = await call(grpc_port(daemon).handler, SERVICE + "SetModelPolicy", encoded(asked))
    assert isinstance(said, bytes), said
    row: pb.Model = pb.SetModelPolicyResponse.FromString(said).model
    return row


def encoded(message: pb.SetModelPolicyRequest | pb.WatchModelsRequest) -> bytes:
    return bytes(message.SerializeToString())


async def test_wishes_are_kept_and_what_is_left_out_stays() -> None:
    daemon = rooms("m")
    row = await policy(daemon, min_copies=1, max_copies=2, pinned=True, priority=-3)
    assert (row.min_copies, row.max_copies, row.pinned, row.priority) == (1, 2, True, -3)
    row = await policy(daemon, min_copies=0, pinned=False)
    assert (row.min_copies, row.max_copies, row.pinned, row.priority) == (0, 2, False, -3)
    assert daemon.records["m"] == ModelRecord("dummy", max_copies=2, priority=-3)


async def test_wishes_that_make_no_sense_are_refused() -> None:
    handler = grpc_port(rooms("m")).handler
    kind = SERVICE + "SetModelPolicy"
    bad = encoded(pb.SetModelPolicyRequest(model_id="m", priority=21))
    assert await refused(handler, kind, bad) == (
        Code.INVALID_ARGUMENT, "priority must be from -20 to 20",
    )  # fmt: skip
    unknown = encoded(pb.SetModelPolicyRequest(model_id="x"))
    assert await refused(handler, kind, unknown) == (Code.NOT_FOUND, "model not found")
    assert (await refused(handler, kind, b""))[0] is Code.INVALID_ARGUMENT


# --- who is there


async def test_instances_as_they_describe_themselves_and_as_they_look_from_here() -> None:
    record = InstanceRecord(
        1, location="n1", zone="z", labels=("gpu",), model_count=3, capacity_units=4,
        used_units=2, loading=1, rate_rpm=60, draining=True, address="h:1",
    )  # fmt: skip
    daemon = rooms()
    daemon.there = [
        InstanceView("a", InstanceRecord(1), Health.HERE), InstanceView("b", record, Health.SUSPECT)
    ]  # fmt: skip
    said = await call(grpc_port(daemon).handler, SERVICE + "ListInstances")
    assert isinstance(said, bytes)
    here, other = pb.ListInstancesResponse.FromString(said).instances
    assert here == pb.ListInstancesResponse.Instance(instance_id="a", health="here")
    assert other == pb.ListInstancesResponse.Instance(
        instance_id="b", address="h:1", zone="z", location="n1", labels=["gpu"],
        capacity_bytes=4 * 8192, used_bytes=2 * 8192, models=3, loading=1, calls_per_minute=60,
        draining=True, health="suspect",
    )  # fmt: skip


async def test_a_restore_is_accepted_once() -> None:
    daemon = rooms()
    daemon.kept = 5
    handler = grpc_port(daemon).handler
    assert await call(handler, SERVICE + "AcceptRestore") == b"\x08\x05"
    assert await call(handler, SERVICE + "AcceptRestore") == b""


# --- watches


def watching(daemon: Rooms, prefix: str = "") -> Stream:
    return stream(grpc_port(daemon).handler, WATCH, encoded(pb.WatchModelsRequest(prefix=prefix)))


def events(opened: Stream) -> list[tuple[int, str]]:
    told = [pb.ModelEvent.FromString(message) for message in opened.messages]
    return [(event.kind, event.model.model_id) for event in told]


async def test_a_watch_tells_first_that_it_watches_and_then_what_changes() -> None:
    daemon = rooms("m")
    opened = watching(daemon)
    await until(lambda: events(opened) == [(KIND.WATCHING, "")])
    daemon.records["new"] = ModelRecord("dummy", pinned=True)
    daemon.changed("new", created=True)
    await until(lambda: len(opened.messages) == 2)
    event = pb.ModelEvent.FromString(opened.messages[1])
    assert event == pb.ModelEvent(
        kind=KIND.CREATED,
        model=pb.Model(model_id="new", type="dummy", state="NOT_LOADED", pinned=True),
    )
    daemon.loaded.add("m")
    daemon.changed("m")
    del daemon.records["new"]
    daemon.changed("new")
    await until(lambda: len(opened.messages) == 4)
    assert events(opened)[2:] == [(KIND.CHANGED, "m"), (KIND.GONE, "new")]


async def test_many_changes_of_one_model_are_one_event() -> None:
    daemon = rooms()
    opened = watching(daemon)
    await until(lambda: opened.messages)
    daemon.records["m"] = ModelRecord("dummy")
    daemon.changed("m", created=True)
    daemon.changed("m")
    daemon.changed("m")
    await until(lambda: len(opened.messages) == 2)
    assert events(opened)[1:] == [(KIND.CREATED, "m")]
    daemon.changed("m")
    del daemon.records["m"]
    daemon.changed("m")
    await until(lambda: len(opened.messages) == 3)
    assert events(opened)[2:] == [(KIND.GONE, "m")]


async def test_a_prefix_limits_the_watch() -> None:
    daemon = rooms("a1", "b1")
    opened = watching(daemon, "b")
    await until(lambda: opened.messages)
    daemon.changed("a1", "b1")
    await until(lambda: len(opened.messages) == 2)
    assert events(opened)[1:] == [(KIND.CHANGED, "b1")]


async def test_a_slow_reader_gets_the_last_word_of_each_model_and_is_left_beyond_the_bound() -> (
    None
):
    daemon = rooms(*(f"m{n}" for n in range(10)))
    watches = Watching(daemon.subscribe, daemon.view, most_waiting=9)
    reply = Reader()
    asked = encoded(pb.WatchModelsRequest())
    watches.begin(Call(WATCH, b"", reply, inbound=Inbound([asked])))
    opened = Stream(None, reply, Inbound())  # type: ignore[arg-type]
    assert len(opened.messages) == 1
    reply.reads = False
    for _ in range(3):
        daemon.changed(*(f"m{n}" for n in range(9)))
    await asyncio.sleep(0)
    assert len(opened.messages) == 1
    reply.reads = True
    await until(lambda: len(opened.messages) == 10)
    reply.reads = False
    daemon.changed(*(f"m{n}" for n in range(10)))
    failure = await opened.failure()
    assert failure is not None
    assert (failure.code, failure.reason) == (Code.RESOURCE_EXHAUSTED, Reason.OVERLOADED)
    daemon.changed("m1")  # nobody is told


async def test_a_long_list_of_changes_is_sent_in_turns() -> None:
    daemon = rooms(*(f"m{n:04}" for n in range(1000)))
    opened = watching(daemon)
    await until(lambda: opened.messages)
    daemon.changed(*daemon.records)
    await until(lambda: len(opened.messages) == 1001)
    assert [name for _, name in events(opened)[1:]] == list(daemon.records)


@pytest.mark.parametrize("messages", [(b"\xff",), (b"", b"")])
async def test_what_is_no_watch(messages: tuple[bytes, ...]) -> None:
    opened = stream(grpc_port(rooms()).handler, WATCH, *messages)
    failure = await opened.failure()
    assert failure is not None
    assert failure.code is Code.INVALID_ARGUMENT


async def test_a_watch_without_a_request_is_none() -> None:
    opened = stream(grpc_port(rooms()).handler, WATCH)
    opened.inbound.end()
    failure = await opened.failure()
    assert failure is not None
    assert failure.code is Code.INVALID_ARGUMENT


async def test_watches_end_when_the_daemon_leaves() -> None:
    daemon = rooms("m")
    port = grpc_port(daemon)
    asked = encoded(pb.WatchModelsRequest())
    opened = [stream(port.handler, WATCH, asked) for _ in range(3)]
    await until(lambda: all(one.messages for one in opened))
    port.drain()
    for one in opened:
        ended = await one.failure()
        assert ended is not None
        assert ended.reason is Reason.DRAINING


NAMES = st.sampled_from("abc")
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "drop", "read", "pause", "turn"]), NAMES), max_size=40
)


@given(STEPS)
def test_who_takes_the_events_over_a_list_has_what_is_there(steps: list[tuple[str, str]]) -> None:
    asyncio.run(_follow(steps))


async def _follow(steps: list[tuple[str, str]]) -> None:
    daemon, reply = rooms("a"), Reader()
    watches = Watching(daemon.subscribe, daemon.view)
    watches.begin(Call(WATCH, b"", reply, inbound=Inbound([b""])))
    known = dict(daemon.records)
    for what, name in steps:
        if what == "put":
            created = name not in daemon.records
            before = daemon.records.get(name, ModelRecord("dummy"))
            daemon.records[name] = ModelRecord("dummy", priority=before.priority + 1)
            daemon.changed(name, created=created)
        elif what == "drop" and name in daemon.records:
            del daemon.records[name]
            daemon.changed(name)
        elif what in ("read", "pause"):
            reply.reads = what == "read"
        else:
            await asyncio.sleep(0)
    reply.reads = True
    for _ in range(5):
        await asyncio.sleep(0)
    rows = {name: record.priority for name, record in known.items()}
    for message in reply.messages[1:]:
        event = pb.ModelEvent.FromString(bytes(message))
        assert (event.kind == KIND.GONE) == (event.model.type == "")
        if event.kind == KIND.GONE:
            rows.pop(event.model.model_id, None)
        else:
            rows[event.model.model_id] = event.model.priority
    assert rows == {name: record.priority for name, record in daemon.records.items()}
