"""modelmesh.admin.v1.Admin: pages, bulk registration, explanations."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Code
from modelmesh.pb import admin_pb2 as pb
from tests.api.fakes import NOW_MS, Rooms, call, grpc_port, refused, rooms

SERVICE = "/modelmesh.admin.v1.Admin/"


async def answer(daemon: Rooms, method: str, body: bytes) -> bytes:
    said = await call(grpc_port(daemon).handler, SERVICE + method, body)
    assert isinstance(said, bytes), said
    return said


# --- listing


async def page(
    daemon: Rooms, size: int = 0, token: str = "", prefix: str = ""
) -> pb.ListModelsResponse:
    asked = pb.ListModelsRequest(prefix=prefix, page_size=size, page_token=token)
    said = pb.ListModelsResponse()
    said.ParseFromString(await answer(daemon, "ListModels", asked.SerializeToString()))
    return said


async def pages(daemon: Rooms, size: int = 0, prefix: str = "") -> list[list[str]]:
    listed, token = [], ""
    while True:
        one = await page(daemon, size, token, prefix)
        listed.append([model.model_id for model in one.models])
        token = one.next_page_token
        if not token:
            return listed


@pytest.mark.parametrize(
    ("registered", "size", "lengths"),
    [
        (0, 0, [0]),
        (1, 0, [1]),
        (5, 2, [2, 2, 1]),
        (4, 2, [2, 2]),
        (1001, 0, [1000, 1]),
        (700, 600, [600, 100]),
        (11_000, 4_000_000_000, [10_000, 1000]),
    ],
)
async def test_pages_hold_every_model_once_in_order(
    registered: int, size: int, lengths: list[int]
) -> None:
    daemon = rooms(*(f"m{n:05}" for n in range(registered)))
    listed = await pages(daemon, size)
    assert [len(one) for one in listed] == lengths
    assert [name for one in listed for name in one] == sorted(daemon.records)


async def test_a_prefix_limits_the_listing() -> None:
    daemon = rooms("a", "b", "ba", "bb", "bc", "c", "日")
    assert await pages(daemon, 2, "b") == [["b", "ba"], ["bb", "bc"]]
    assert await pages(daemon, 2, "日") == [["日"]]
    assert await pages(daemon, 2, "nothing") == [[]]


async def test_a_row_says_what_is_registered_and_its_state() -> None:
    daemon = Rooms({"m": ModelRecord("dummy", "/p", "k")}, loaded={"m"})
    (row,) = (await page(daemon)).models
    expected = pb.Model(model_id="m", type="dummy", path="/p", key="k", state="LOADED")
    assert row == expected


async def test_a_page_ends_before_it_is_too_large_for_a_client() -> None:
    daemon = Rooms({f"m{n}": ModelRecord("dummy", key="k" * (1 << 20)) for n in range(7)})
    first = await page(daemon)
    assert [row.model_id for row in first.models] == ["m0", "m1"]
    assert await pages(daemon) == [["m0", "m1"], ["m2", "m3"], ["m4", "m5"], ["m6"]]
    huge = Rooms({f"m{n}": ModelRecord("dummy", key="k" * (4 << 20)) for n in range(2)})
    assert await pages(huge) == [["m0"], ["m1"]]


@given(st.data())
def test_models_that_stay_are_listed_once_whatever_comes_and_goes(data: st.DataObject) -> None:
    names = st.sets(st.text("abc", min_size=1, max_size=3), max_size=12)
    staying, going = data.draw(names), data.draw(names)
    daemon = rooms(*staying, *going)

    async def listing() -> list[str]:
        listed, token = [], ""
        while True:
            one = await page(daemon, 2, token)
            listed += [row.model_id for row in one.models]
            token = one.next_page_token
            if not token:
                return listed
            for name in data.draw(names):
                daemon.records[name] = ModelRecord("dummy")
            for name in data.draw(names) - staying:
                daemon.records.pop(name, None)

    listed = asyncio.run(listing())
    assert listed == sorted(set(listed))
    assert staying <= set(listed)


@pytest.mark.parametrize("token", ["x", "eA==", "🦊", "YWZ0ZXI6/w==", "YWZ0ZXI6_w=="])
async def test_tokens_that_were_never_given_out(token: str) -> None:
    asked = pb.ListModelsRequest(page_token=token).SerializeToString()
    said = await refused(grpc_port(rooms("m")).handler, SERVICE + "ListModels", asked)
    assert said[0] is Code.INVALID_ARGUMENT
    assert said[1].startswith("page_token is not one that was given out")


async def test_a_token_is_of_its_prefix() -> None:
    daemon = rooms("a1", "a2", "b1")
    token = (await page(daemon, 1, prefix="a")).next_page_token
    asked = pb.ListModelsRequest(page_token=token, prefix="b").SerializeToString()
    said = await refused(grpc_port(daemon).handler, SERVICE + "ListModels", asked)
    assert said == (
        Code.INVALID_ARGUMENT, "page_token is not one that was given out for this prefix",
    )  # fmt: skip


# --- registering many


async def test_bulk_registration_has_one_result_an_item() -> None:
    daemon = rooms("there")
    item = pb.RegisterModelsRequest.Item
    asked = pb.RegisterModelsRequest(
        models=[
            item(model_id="new", type="dummy", path="/p", key="k"),
            item(model_id="", type="dummy"),
            item(model_id="there", type="dummy"),
            item(model_id="there", type="dummy", path="/other"),
            item(model_id="typeless"),
            item(model_id="a\0", type="dummy"),
            item(model_id="last", type="dummy"),
        ]
    )
    said = pb.RegisterModelsResponse.FromString(
        await answer(daemon, "RegisterModels", asked.SerializeToString())
    )
    assert [(row.model_id, row.code, row.error) for row in said.results] == [
        ("new", "", ""),
        ("", "INVALID_ARGUMENT", "must provide non-empty modelId"),
        ("there", "", ""),
        ("there", "ALREADY_EXISTS", "different"),
        ("typeless", "INVALID_ARGUMENT", "must provide non-empty type in modelInfo"),
        ("a\0", "INVALID_ARGUMENT", "the modelId must not contain U+0000 (at character 1)"),
        ("last", "", ""),
    ]
    assert set(daemon.records) == {"new", "there", "last"}
    used_ms = NOW_MS - 6 * 3_600_000
    assert daemon.records["new"] == ModelRecord("dummy", "/p", "k", last_used_ms=used_ms)


async def test_bulk_registration_is_bounded() -> None:
    daemon = rooms()
    asked = pb.RegisterModelsRequest()
    for n in range(10_000):
        asked.models.add(model_id=f"m{n}", type="dummy")
    await answer(daemon, "RegisterModels", asked.SerializeToString())
    assert len(daemon.records) == 10_000
    asked.models.add(model_id="one more", type="dummy")
    said = await refused(
        grpc_port(daemon).handler, SERVICE + "RegisterModels", asked.SerializeToString()
    )
    assert said == (Code.INVALID_ARGUMENT, "10001 models, more than 10000 in one call")
    assert len(daemon.records) == 10_000


# --- why, and away with it


async def test_explain() -> None:
    asked = pb.ExplainModelRequest(model_id="m").SerializeToString()
    said = pb.ExplainModelResponse.FromString(await answer(rooms("m"), "ExplainModel", asked))
    candidate = pb.ExplainModelResponse.Candidate
    assert said == pb.ExplainModelResponse(
        model_id="m",
        state="NOT_LOADED",
        decision="wait",
        reason="waits for unloads to end",
        eviction_order=[
            candidate(model_id="old", worth=0.5, size_bytes=100, verdict="evict"),
            candidate(model_id="new", worth=2.0, size_bytes=50, verdict="in use"),
        ],
        capacity_bytes=1000,
        reserved_bytes=150,
        debt_bytes=7,
    )


async def test_explain_of_what_would_go_elsewhere() -> None:
    daemon = rooms("m")
    daemon.forward = "to b: the least loaded copy"
    asked = pb.ExplainModelRequest(model_id="m").SerializeToString()
    said = pb.ExplainModelResponse.FromString(await answer(daemon, "ExplainModel", asked))
    assert (said.decision, said.reason) == ("forward", "to b: the least loaded copy")


async def test_unload() -> None:
    daemon = rooms("m")
    daemon.loaded = {"m"}
    asked = pb.UnloadModelRequest(model_id="m").SerializeToString()
    assert await answer(daemon, "UnloadModel", asked) == b"\x08\x01"
    assert await answer(daemon, "UnloadModel", asked) == b""


@pytest.mark.parametrize("method", ["ExplainModel", "UnloadModel"])
async def test_of_no_model(method: str) -> None:
    handler = grpc_port(rooms()).handler
    empty = (Code.INVALID_ARGUMENT, "must provide non-empty modelId")
    assert await refused(handler, SERVICE + method, b"") == empty
    asked = pb.UnloadModelRequest(model_id="unknown").SerializeToString()
    assert await refused(handler, SERVICE + method, asked) == (Code.NOT_FOUND, "model not found")


UNARY = [
    method.name
    for method in pb.DESCRIPTOR.services_by_name["Admin"].methods
    if not method.server_streaming
]


@pytest.mark.parametrize("method", UNARY)
def test_any_bytes_are_answered_or_refused_and_never_break(method: str) -> None:
    handler = grpc_port(rooms("m")).handler

    @given(st.binary(max_size=64))
    def check(body: bytes) -> None:
        outcome = asyncio.run(call(handler, SERVICE + method, body))
        assert isinstance(outcome, bytes) or outcome.code in (Code.INVALID_ARGUMENT, Code.NOT_FOUND)

    check()
