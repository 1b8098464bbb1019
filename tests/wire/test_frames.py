"""The framed codec: what goes in comes out, however it is cut; what is hostile raises one error."""

from contextlib import suppress
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.errors import Code, Failure, Fault, Reason
from modelmesh.wire import frames
from modelmesh.wire.transport import Body, Metadata

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
pairs = st.one_of(
    st.tuples(texts.filter(lambda key: not key.endswith("-bin")), texts),
    st.tuples(texts.map(lambda key: key + "-bin"), st.binary(max_size=40)),
)
metadatas = st.lists(pairs, max_size=5).map(tuple)
bodies = st.binary(max_size=100)
some_times = st.sampled_from([frames.NOT_TOLD]) | st.floats(0, frames.LONGEST_TIME_S)
times_of = st.tuples(some_times, some_times)
ids = st.integers(0, 2**64 - 1)
failures = st.builds(
    Failure,
    code=st.sampled_from(Code),
    message=texts,
    fault=st.sampled_from(Fault),
    reason=st.sampled_from(Reason),
    retry_after_s=st.none() | st.floats(0, frames.LONGEST_RETRY_S),
    executed=st.booleans(),
)


def one(frame: tuple[Body, ...]) -> frames.Frame:
    (found,) = frames.Decoder().feed(b"".join(frame))
    return found


@given(ids, texts, metadatas, st.floats(allow_nan=False), bodies)
def test_a_call_comes_out_as_it_went_in(
    call_id: int, kind: str, metadata: Metadata, deadline: float, body: bytes
) -> None:
    frame_type, found_id, payload = one(frames.call(call_id, kind, metadata, deadline, body))
    assert (frame_type, found_id) == (frames.CALL, call_id)
    assert frames.parse_call(payload) == (kind, metadata, deadline, body)


@given(ids, metadatas, bodies, times_of)
def test_an_answer_comes_out_as_it_went_in(
    call_id: int, metadata: Metadata, body: bytes, times: frames.Times
) -> None:
    frame_type, found_id, payload = one(frames.answer(call_id, body, metadata, times))
    assert (frame_type, found_id) == (frames.ANSWER, call_id)
    assert frames.parse_answer(payload) == (metadata, body, times)


@given(st.none() | failures, metadatas, times_of)
def test_a_finish_comes_out_as_it_went_in(
    failure: Failure | None, metadata: Metadata, times: frames.Times
) -> None:
    frame_type, _, payload = one(frames.finish(7, failure, metadata, times))
    assert frame_type == frames.FINISH
    assert frames.parse_finish(payload) == (failure, metadata, times)


@pytest.mark.parametrize("wrong", [nan, inf, -inf, -2.0, 1e9])
@pytest.mark.parametrize("place", [0, 1])
def test_times_that_no_call_can_take_are_malformed(wrong: float, place: int) -> None:
    times = [0.0, 0.0]
    times[place] = wrong
    frame = frames.answer(1, b"", (), (times[0], times[1]))
    with pytest.raises(frames.Malformed, match="times"):
        frames.parse_answer(one(frame)[2])


@given(st.lists(bodies, max_size=6), st.lists(st.integers(1, 60), min_size=1))
def test_frames_do_not_depend_on_how_the_stream_is_cut(
    messages: list[bytes], cuts: list[int]
) -> None:
    stream = b"".join(b"".join(frames.message(n, body)) for n, body in enumerate(messages))
    decoder = frames.Decoder()
    found: list[frames.Frame] = []
    at = turn = 0
    while at < len(stream):
        cut = cuts[turn % len(cuts)]
        found += decoder.feed(stream[at : at + cut])
        at, turn = at + cut, turn + 1
    assert found == [(frames.MESSAGE, n, body) for n, body in enumerate(messages)]


def test_a_large_frame_is_a_view_of_its_buffer() -> None:
    body = bytes(range(256)) * 256
    stream = b"".join(frames.message(1, body))
    decoder = frames.Decoder()
    assert list(decoder.feed(stream[:50_000])) == []
    ((_, _, payload),) = decoder.feed(stream[50_000:])
    assert isinstance(payload, memoryview)
    assert payload == body


def test_text_that_is_no_unicode_is_replaced_not_refused() -> None:
    frame = frames.finish(1, Failure(Code.INTERNAL, "no \udcff file"), (("a", "\ud800"),))
    assert frames.parse_finish(one(frame)[2]) == (
        Failure(Code.INTERNAL, "no ? file"),
        (("a", "?"),),
        frames.NO_TIMES,
    )


def test_a_frame_above_the_limit_is_malformed_before_it_is_collected() -> None:
    head = b"".join(frames.message(1, bytes(2000)))[:4]
    with pytest.raises(frames.Malformed, match="2009 bytes"):
        list(frames.Decoder(most_bytes=1000).feed(head))


@given(st.lists(st.binary(max_size=80), max_size=8))
def test_hostile_bytes_raise_malformed_or_nothing(chunks: list[bytes]) -> None:
    decoder = frames.Decoder(most_bytes=1000)
    with suppress(frames.Malformed):
        for chunk in chunks:
            for _, _, payload in decoder.feed(chunk):
                assert len(payload) <= 1000


@given(st.binary(max_size=120))
def test_hostile_payloads_raise_malformed_or_nothing(payload: bytes) -> None:
    for parse in (frames.parse_call, frames.parse_answer, frames.parse_finish):
        with suppress(frames.Malformed):
            parse(payload)


@given(st.data(), failures, metadatas)
def test_a_damaged_frame_raises_malformed_or_nothing(
    data: st.DataObject, failure: Failure, metadata: Metadata
) -> None:
    payload = bytearray(b"".join(frames.finish(1, failure, metadata))[13:])
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with suppress(frames.Malformed):
        frames.parse_finish(payload)
