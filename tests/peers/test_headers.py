"""Hops as metadata: what is written is read, what is not ours ignored, what is broken refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.domain.fleet import Hops, Intent
from modelmesh.errors import Code, MeshError
from modelmesh.peers import headers
from modelmesh.wire.kinds import BINARY_BODY, MODEL_INFER, V1_PREDICT
from modelmesh.wire.replies import OpenReply
from modelmesh.wire.transport import Call, Metadata

ids = st.text(min_size=1, max_size=40)
hops = st.builds(Hops, st.sampled_from(Intent), ids, st.lists(ids, max_size=8).map(tuple))
own = st.lists(
    st.tuples(st.from_regex("[a-z][a-z0-9-]{0,10}", fullmatch=True), st.text(max_size=5)),
    max_size=4,
).map(tuple)


def call(metadata: Metadata, kind: str = MODEL_INFER) -> Call:
    reply = OpenReply()
    return Call(kind, b"", reply, metadata)  # type: ignore[arg-type]  # nobody answers it


@given(hops, st.text(), own)
def test_what_is_written_is_read(said: Hops, model_id: str, metadata: Metadata) -> None:
    received = call(headers.to_metadata(said, model_id, metadata))
    assert headers.receive(received) == (model_id, said)
    assert received.metadata == tuple(h for h in metadata if not h[0].startswith("mm-hop-"))


@given(hops)
def test_every_text_header_is_visible_ascii(said: Hops) -> None:
    for key, value in headers.to_metadata(said, "m", ()):
        assert key.endswith("-bin") == isinstance(value, bytes)
        assert isinstance(value, bytes) or value.strip() == value
        assert isinstance(value, bytes) or (value.isascii() and value.isprintable())


SENDER = (headers.SENDER, "a")


def test_headers_of_a_later_version_are_ignored() -> None:
    newer = (("mm-hop-colour", "red"), SENDER, ("mm-hop-shape-bin", b"\xff"), ("x", "y"))
    received = call(newer)
    assert headers.receive(received) == ("", Hops(Intent.ANY, "a"))
    assert received.metadata == (("x", "y"),)


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        ((headers.SENDER, ""),),
        (SENDER, SENDER),
        (SENDER, (headers.INTENT, "please")),
        (SENDER, (headers.INTENT, "hit"), (headers.INTENT, "load")),
        (SENDER, (headers.MODEL, b"\xff\xfe")),
        (SENDER, (headers.TRIED, "%ff")),
        ((headers.SENDER, "%c3%28"),),
        (SENDER, *((headers.TRIED, "b"),) * 65),
    ],
)
def test_what_no_daemon_writes_is_refused(metadata: Metadata) -> None:
    with pytest.raises(MeshError) as caught:
        headers.receive(call(metadata))
    assert caught.value.failure.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("kind", [MODEL_INFER, V1_PREDICT, "/any/Thing"])
def test_a_kind_travels_as_a_path(kind: str) -> None:
    path = headers.sent_kind(kind)
    assert path.startswith("/")
    received = call((SENDER,), path)
    headers.receive(received)
    assert received.kind == kind


@pytest.mark.parametrize("metadata", [(), (BINARY_BODY,), ((":status", "404"), ("x-bin", b"1"))])
@pytest.mark.parametrize("queue_depth", [None, 0, 4096])
def test_an_answers_headers_come_back(metadata: Metadata, queue_depth: int | None) -> None:
    sent = headers.with_report(queue_depth, metadata)
    assert not {"content-type", ":status"} & {key for key, _ in sent}
    assert headers.report_of(sent) == (queue_depth, metadata)


@pytest.mark.parametrize("said", ["", "-1", "x", "1" * 10, "\u0663", b"\xff"])
def test_a_report_that_is_no_number_is_none(said: str | bytes) -> None:
    assert headers.report_of(((headers.QUEUE, said),)) == (None, ())
