"""Which methods callers may use on models, and where ids stand in their messages."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.api.dataplane import EVERYTHING, Dataplane, Rpc, parse
from modelmesh.codec.splice import inject
from modelmesh.domain.vmodels import VModelRecord
from modelmesh.errors import Code, Failure
from modelmesh.pb import inference_pb2 as pb
from modelmesh.wire.kinds import MODEL_INFER, MODEL_METADATA
from modelmesh.wire.transport import Handler, Metadata
from tests.api.fakes import Rooms, call, grpc_port, refused, rooms

PREDICT = "/tensorflow.serving.PredictionService/Predict"
SECRET = "/some.Service/Secret"
RULES = {"tensorflow.serving.PredictionService/Predict": {"idExtractionPath": [1, 2]}}


# --- the text


def test_what_the_text_says() -> None:
    text = json.dumps(
        {
            "rpcConfigs": {
                "p.S/A": {"idExtractionPath": [1, 2], "vModelId": True},
                "p.S/B": {},
                "S/C": {"idExtractionPath": []},
            },
            "allowOtherRpcs": True,
        }
    )
    assert parse(text) == Dataplane(
        {"/p.S/A": Rpc((1, 2), True), "/p.S/B": Rpc(), "/S/C": Rpc()}, allow_others=True
    )
    assert parse("{}") == Dataplane()
    assert parse(" \n") is EVERYTHING


def test_what_is_allowed() -> None:
    strict = parse(json.dumps({"rpcConfigs": RULES}))
    assert strict.rpc(PREDICT) == Rpc((1, 2))
    assert strict.rpc(SECRET) is None
    assert parse("{}").rpc(PREDICT) is None
    lenient = parse(json.dumps({"rpcConfigs": RULES, "allowOtherRpcs": True}))
    assert lenient.rpc(PREDICT) == Rpc((1, 2))
    assert lenient.rpc(SECRET) == EVERYTHING.rpc(SECRET) == Rpc()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "the dataplane configuration is a JSON object"),
        ('{"rpcConfig": {}}', r"has \['rpcConfig'\]; known are rpcConfigs, allowOtherRpcs"),
        ('{"allowOtherRpcs": "true"}', "allowOtherRpcs is true or false"),
        ('{"rpcConfigs": []}', "rpcConfigs is a JSON object"),
        ('{"rpcConfigs": {"p.S": {}}}', "'p.S' is not package.Service/Method"),
        ('{"rpcConfigs": {"/p.S/M": {}}}', "is not package.Service/Method"),
        ('{"rpcConfigs": {"p.S/": {}}}', "is not package.Service/Method"),
        ('{"rpcConfigs": {"p.S/M": 1}}', "p.S/M is a JSON object"),
        ('{"rpcConfigs": {"p.S/M": {"vModelID": true}}}', r"has \['vModelID'\]; known are idExt"),
        ('{"rpcConfigs": {"p.S/M": {"vModelId": 1}}}', "p.S/M: vModelId is true or false"),
        ('{"rpcConfigs": {"p.S/M": {"idExtractionPath": 1}}}', "is a list of up to 32 field num"),
        ('{"rpcConfigs": {"p.S/M": {"idExtractionPath": [0]}}}', "field numbers"),
        ('{"rpcConfigs": {"p.S/M": {"idExtractionPath": [true]}}}', "field numbers"),
        ('{"rpcConfigs": {"p.S/M": {"idExtractionPath": [1.0]}}}', "field numbers"),
        ('{"rpcConfigs": {"p.S/M": {"idExtractionPath": [536870912]}}}', "field numbers"),
        (
            json.dumps({"rpcConfigs": {"p.S/M": {"idExtractionPath": [1] * 33}}}),
            "field numbers",
        ),
    ],
)
def test_what_makes_no_sense(given: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(given)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["rpcConfigs", "allowOtherRpcs", "p.S/M", "idExtractionPath", "vModelId", "x"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(JSONS.map(json.dumps) | st.text(max_size=20))
def test_any_text_is_rules_or_an_error(text: str) -> None:
    try:
        rules = parse(text)
    except ValueError:
        return
    assert all(number >= 1 for rpc in rules.rpcs.values() for number in rpc.path)


# --- calls


def permitting(daemon: Rooms, **rules: object) -> Handler:
    """The handler of a daemon with these rules."""
    port = grpc_port(daemon)
    port.permit(parse(json.dumps(rules)))
    return port.handler


HEADER: Metadata = (("mm-model-id", "header"), ("mm-balanced", "true"), ("x-a", "1"))


@pytest.mark.parametrize(
    ("message", "metadata", "chosen"),
    [
        (inject(b"", (1, 2), "message"), HEADER, "message"),
        (inject(b"", (1, 2), "message"), (), "message"),
        (inject(b"", (1, 2), ""), HEADER, "header"),
        (b"", HEADER, "header"),
        (inject(b"", (1, 3), "elsewhere"), HEADER, "header"),
    ],
)
async def test_an_id_in_the_message_goes_before_the_header(
    message: bytes, metadata: Metadata, chosen: str
) -> None:
    daemon = rooms("message", "header")
    handler = permitting(daemon, rpcConfigs=RULES)
    assert await call(handler, PREDICT, message, metadata) == b"answer"
    ((model_id, passed),) = daemon.inferred
    assert (model_id, passed.kind, passed.body) == (chosen, PREDICT, message)
    assert passed.metadata == ((("x-a", "1"),) if metadata else ())
    assert daemon.balanced == [bool(metadata)]


async def test_the_message_may_name_a_vmodel() -> None:
    daemon = rooms("real", "v")
    daemon.vmodels["v"] = VModelRecord("real", "real", "")
    rules = {PREDICT[1:]: {"idExtractionPath": [1], "vModelId": True}}
    handler = permitting(daemon, rpcConfigs=rules)
    named = inject(b"", (1,), "v")
    assert await call(handler, PREDICT, named) == b"answer"
    assert daemon.inferred[0][0] == "real"
    other = inject(b"", (1,), "real")
    said = await refused(handler, PREDICT, other)
    assert said == (Code.NOT_FOUND, "vmodel not found")


async def test_other_methods_are_refused_unless_they_are_allowed() -> None:
    daemon = rooms("m")
    by_header: Metadata = (("mm-model-id", "m"),)
    strict = permitting(daemon, rpcConfigs=RULES)
    for kind in (SECRET, MODEL_INFER, MODEL_METADATA):
        said = await refused(strict, kind, b"", by_header)
        expected = f"Method not found or not permitted: {kind[1:]}"
        assert said == (Code.UNIMPLEMENTED, expected)
    assert not daemon.inferred
    lenient = permitting(daemon, rpcConfigs=RULES, allowOtherRpcs=True)
    for kind in (SECRET, MODEL_INFER, MODEL_METADATA):
        assert await call(lenient, kind, b"", by_header) == b"answer"
    live = "/inference.GRPCInferenceService/ServerLive"
    assert await call(strict, live) == b"\x08\x01"


async def test_a_rule_for_infer_may_look_elsewhere_than_its_name() -> None:
    daemon = rooms("by-id", "by-name")
    handler = permitting(daemon, rpcConfigs={MODEL_INFER[1:]: {"idExtractionPath": [3]}})
    both = pb.ModelInferRequest(model_name="by-name", id="by-id").SerializeToString()
    name_only = pb.ModelInferRequest(model_name="by-name").SerializeToString()
    for body in (both, name_only):
        assert await call(handler, MODEL_INFER, body) == b"answer"
    assert [model_id for model_id, _ in daemon.inferred] == ["by-id", "by-name"]


async def test_no_rule_opens_what_is_ours() -> None:
    ours = "/mmesh.ModelRuntime/unloadModel"
    daemon = rooms("m")
    rules = {ours[1:]: {"idExtractionPath": [1]}}
    handler = permitting(daemon, rpcConfigs=rules, allowOtherRpcs=True)
    said = await refused(handler, ours, inject(b"", (1,), "m"))
    assert said[0] is Code.UNIMPLEMENTED
    assert not daemon.inferred


async def test_a_message_that_is_none_is_the_callers_fault() -> None:
    handler = permitting(rooms("m"), rpcConfigs=RULES)
    failure = await call(handler, PREDICT, b"\x0a\x05ab")
    assert isinstance(failure, Failure)
    assert failure.code is Code.INVALID_ARGUMENT
    assert failure.message.startswith("malformed PredictRequest: ")


async def test_rules_may_change_while_calls_come() -> None:
    daemon = rooms("m")
    port = grpc_port(daemon)
    by_header: Metadata = (("mm-model-id", "m"),)
    assert await call(port.handler, SECRET, b"", by_header) == b"answer"
    port.permit(parse("{}"))
    assert (await refused(port.handler, SECRET, b"", by_header))[0] is Code.UNIMPLEMENTED
    port.permit(EVERYTHING)
    assert await call(port.handler, SECRET, b"", by_header) == b"answer"
