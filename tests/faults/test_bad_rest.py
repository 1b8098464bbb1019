"""Everything that can be wrong with a REST request: an exact status, a clear word, no harm.

The wire's own tests cover HTTP's grammar byte by byte; here it is the whole daemon that answers,
from the socket down to the model in its host and back.
"""

import json
from typing import Any, Final

import pytest

from tests.faults.scene import GOOD_PATH, GOOD_V1, IRIS, ROW, Scene, error_of, head, post

V2_PATH: Final = f"/v2/models/{IRIS}/infer"
DEEP: Final = 100_000


def v1(instances: str) -> bytes:
    return b'{"instances": %b}' % instances.encode()


BAD_V1: Final[list[tuple[str, bytes, str]]] = [
    ("empty", b"", "Unrecognized request format"),
    ("blank", b"  \r\n ", "Unrecognized request format"),
    ("cut off", GOOD_V1[:-1], "Unrecognized request format"),
    ("garbage", b"\x00\xff\xfe", "Unrecognized request format"),
    ("form", b"instances=1&x=2", "Unrecognized request format"),
    ("two documents", GOOD_V1 + GOOD_V1, "Unrecognized request format"),
    ("a byte order mark", b"\xef\xbb\xbf" + GOOD_V1, "Unrecognized request format"),
    ("UTF-16", GOOD_V1.decode().encode("utf-16"), "Unrecognized request format"),
    ("bytes that are not UTF-8", b'{"instances": ["\xff"]}', "Unrecognized request format"),
    ("half a surrogate pair", v1(r'["\ud800"]'), "Unrecognized request format"),
    ("single quotes", b"{'instances': [[1, 2, 3, 4]]}", "Unrecognized request format"),
    ("a trailing comma", v1("[[1, 2, 3, 4],]"), "Unrecognized request format"),
    ("a comment", v1("[[1, 2, 3, 4]] // four"), "Unrecognized request format"),
    ("NaN", v1("[[NaN, 2, 3, 4]]"), "Unrecognized request format"),
    ("Infinity", v1("[[Infinity, 2, 3, 4]]"), "Unrecognized request format"),
    ("-Infinity", v1("[[-Infinity, 2, 3, 4]]"), "Unrecognized request format"),
    ("1e400", v1("[[1e400, 2, 3, 4]]"), "Unrecognized request format"),
    ("hexadecimal", v1("[[0x10, 2, 3, 4]]"), "Unrecognized request format"),
    ("a leading zero", v1("[[01, 2, 3, 4]]"), "Unrecognized request format"),
    ("deep lists", v1("[" * DEEP + "]" * DEEP), "Unrecognized request format"),
    ("deep lists, never closed", v1("[" * DEEP), "Unrecognized request format"),
    ("deep objects", v1('[{"a":' * DEEP + "1" + "}]" * DEEP), "Unrecognized request format"),
    ("a list", b"[[1, 2, 3, 4]]", "not a JSON object"),
    ("a text", b'"instances"', "not a JSON object"),
    ("null", b"null", "not a JSON object"),
    ("no instances", b"{}", 'Expected "instances" to be a list'),
    ("other keys", b'{"instance": [[1, 2, 3, 4]]}', 'Expected "instances" to be a list'),
    ("a number of instances", v1("7"), 'Expected "instances" to be a list'),
    ("an object of instances", v1("{}"), 'Expected "instances" to be a list'),
    ("null for instances", v1("null"), 'Expected "instances" to be a list'),
    ("inputs that are no list", b'{"inputs": 1}', 'Expected "inputs" to be a list'),
    ("the last of two keys is bad", b'{"instances": [[1,2,3,4]], "instances": 7}', "to be a list"),
    ("a number of 5,000 digits", v1("[[" + "9" * 5000 + ", 2, 3, 4]]"), ""),
    ("no rows", v1("[]"), ""),
    ("an empty row", v1("[[]]"), ""),
    ("ragged rows", v1("[[1, 2, 3, 4], [1, 2, 3]]"), "not rectangular"),
    ("ragged depth", v1("[[1, 2, 3, 4], [1, 2, 3, [4]]]"), "not rectangular"),
    ("a row and a number", v1("[[1, 2, 3, 4], 5]"), "not rectangular"),
    ("too few features", v1("[[1, 2, 3]]"), "features"),
    ("too many features", v1("[[1, 2, 3, 4, 5]]"), "features"),
    ("one dimension", v1("[1, 2, 3, 4]"), "2D"),
    ("three dimensions", v1("[[[1, 2, 3, 4]]]"), "dim"),
    ("texts", v1('[["a", "b", "c", "d"]]'), ""),
    ("a text among numbers", v1('[[1, 2, 3, "four"]]'), ""),
    ("nulls", v1("[[1, 2, 3, null]]"), ""),
    ("rows of other kinds", v1('[{"a": 1}, [1, 2, 3, 4]]'), "mix"),
    ("records of other columns", v1('[{"a": 1, "b": 2}]'), ""),
    ("records of records", v1('[{"a": {"b": {"c": 1}}}]'), ""),
    ("columns of other lengths", v1('[{"a": [1, 2], "b": [1]}]'), "rows"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "said"), [c[1:] for c in BAD_V1], ids=[c[0] for c in BAD_V1])
def test_a_v1_body_that_cannot_be_predicted(body: bytes, said: str, scene: Scene) -> None:
    answer = scene.send(*post(GOOD_PATH, body))
    assert answer.status == 400, answer
    assert said in error_of(answer)


GOOD_BUT_ODD: Final[list[tuple[str, bytes, tuple[bytes, ...]]]] = [
    ("of two keys the last counts", b'{"instances": 7, "instances": [[6.8, 2.8, 4.8, 1.4]]}', ()),
    ("unknown keys", b'{"instances": [[6.8, 2.8, 4.8, 1.4]], "signature_name": {"a": []}}', ()),
    ("curl's form type", GOOD_V1, (b"content-type: application/x-www-form-urlencoded",)),
    ("an image, it says", GOOD_V1, (b"content-type: image/png",)),
    ("another charset, it says", GOOD_V1, (b"content-type: application/json; charset=utf-16",)),
    ("the identity encoding", GOOD_V1, (b"content-encoding: identity",)),
    ("another method, a header says", GOOD_V1, (b"x-http-method-override: DELETE",)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "headers"), [c[1:] for c in GOOD_BUT_ODD], ids=[c[0] for c in GOOD_BUT_ODD]
)
def test_what_is_odd_and_understood(body: bytes, headers: tuple[bytes, ...], scene: Scene) -> None:
    answer = scene.send(*post(GOOD_PATH, body, *headers))
    assert (answer.status, answer.body) == (200, b'{"predictions":[1]}')


def tensor(**changes: Any) -> dict[str, Any]:
    """A good input with changes; a change to None leaves the field out."""
    fields = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": list(ROW)} | changes
    return {name: value for name, value in fields.items() if value is not None}


def v2(*inputs: Any, **fields: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **fields}).encode()


def binary(size: Any, **changes: Any) -> bytes:
    return v2(tensor(data=None, parameters={"binary_data_size": size}, **changes))


WHOLE: Final = binary(32)
BAD_V2: Final[list[tuple[str, bytes, str]]] = [
    ("no inputs", b"{}", "'inputs' must be a list"),
    ("inputs that are no list", b'{"inputs": {}}', "'inputs' must be a list"),
    ("an empty list of inputs", v2(), ""),
    ("a number for an input", v2(7), "'inputs' must be a list of tensors"),
    ("an input of nothing", v2({}), "name of an input"),
    ("no name", v2(tensor(name=None)), "name of an input"),
    ("a number for a name", v2(tensor(name=7)), "name of an input"),
    ("no datatype", v2(tensor(datatype=None)), "invalid datatype None in the input"),
    ("an unknown datatype", v2(tensor(datatype="FP128")), "invalid datatype None in the input"),
    ("a number for a datatype", v2(tensor(datatype=64)), "invalid datatype None in the input"),
    ("a list for a datatype", v2(tensor(datatype=["FP64"])), "invalid datatype None in the input"),
    ("no shape", v2(tensor(shape=None)), "'shape' of input 'x'"),
    ("a text for a shape", v2(tensor(shape="1,4")), "'shape' of input 'x'"),
    ("a fractional shape", v2(tensor(shape=[1, 4.5])), "'shape' of input 'x'"),
    ("a shape of booleans", v2(tensor(shape=[True, 4])), "'shape' of input 'x'"),
    ("a negative shape", v2(tensor(shape=[-1, -4])), "impossible shape"),
    ("a shape whose product overflows", v2(tensor(shape=[2**32, 2**32])), "impossible shape"),
    ("a shape beyond 64 bits", v2(tensor(shape=[2**63, 0])), "impossible shape"),
    ("65 dimensions", v2(tensor(shape=[1] * 65)), "65 dimensions"),
    ("fewer data than the shape says", v2(tensor(data=[1, 2, 3])), "which is 4 elements, but 3"),
    ("more data than the shape says", v2(tensor(data=[1] * 5)), "which is 4 elements, but 5"),
    ("a billion elements, it says", v2(tensor(shape=[10**9, 4])), "elements, but 4"),
    ("no data", v2(tensor(data=None)), "'data' field is missing"),
    ("a number for data", v2(tensor(data=7)), "'data' of input 'x' must be a list"),
    ("ragged data", v2(tensor(data=[[1, 2], [3]])), "ragged"),
    ("mixed depth", v2(tensor(data=[1, [2, 3, 4]])), "ragged"),
    ("a text among numbers", v2(tensor(data=[1, 2, 3, "4"])), "cannot hold str"),
    ("an object among numbers", v2(tensor(data=[1, 2, 3, {}])), "cannot hold dict"),
    ("256 for a UINT8", v2(tensor(datatype="UINT8", data=[1, 2, 3, 256])), "UINT8"),
    ("-1 for a UINT64", v2(tensor(datatype="UINT64", data=[1, 2, 3, -1])), "UINT64"),
    ("-129 for an INT8", v2(tensor(datatype="INT8", data=[1, 2, 3, -129])), "INT8"),
    ("2^63 for an INT64", v2(tensor(datatype="INT64", data=[1, 2, 3, 2**63])), "INT64"),
    ("1.5 for an INT32", v2(tensor(datatype="INT32", data=[1, 2, 3, 1.5])), "cannot hold float"),
    ("2 for a BOOL", v2(tensor(datatype="BOOL", data=[1, 0, 1, 2])), "cannot hold int"),
    ("a number for BYTES", v2(tensor(datatype="BYTES", data=[1, 2, 3, 4])), "cannot hold int"),
    ("FP16 in JSON", v2(tensor(datatype="FP16")), "Sending FP16 data via JSON is not supported"),
    ("BF16 in JSON", v2(tensor(datatype="BF16")), "Sending BF16 data via JSON is not supported"),
    ("1e39 for an FP32", v2(tensor(datatype="FP32", data=[1, 2, 3, 1e39])), "FP32"),
    ("NaN", v2(tensor(data=[1, 2, 3, float("nan")])), "Unrecognized request format"),
    ("null, which is NaN", v2(tensor(data=[1, 2, 3, None])), "NaN"),
    ("a list for parameters", v2(tensor(), parameters=[]), "'parameters' must be an object"),
    ("nested parameters", v2(tensor(), parameters={"a": {"b": 1}}), "wrong type"),
    ("a tensor's nested parameters", v2(tensor(parameters={"a": []})), "wrong type"),
    ("a number for an id", v2(tensor(), id=7), "'id'"),
    ("outputs that are no list", v2(tensor(), outputs={}), "'outputs' must be a list"),
    ("an output without a name", v2(tensor(), outputs=[{}]), "name of an output"),
    ("an unknown output", v2(tensor(), outputs=[{"name": "y"}]), "Unexpected inference output 'y'"),
    ("two inputs of one name", v2(tensor(), tensor()), "two inputs have the same name"),
    ("columns that are none", v2(tensor(), tensor(name="y")), "shape [1, 4], not [rows]"),
    ("too few features", v2(tensor(shape=[1, 3], data=[1, 2, 3])), "features"),
    ("no dimension", v2(tensor(shape=[], data=[1])), ""),
    ("no rows", v2(tensor(shape=[0, 4], data=[])), ""),
    ("texts", v2(tensor(datatype="BYTES", data=["a", "b", "c", "d"])), ""),
    ("binary, but no header says so", WHOLE + bytes(32), "header is missing"),
    ("deep data", b'{"inputs": [{"name": "x", "data": ' + b"[" * DEEP, "Unrecognized request"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "said"), [c[1:] for c in BAD_V2], ids=[c[0] for c in BAD_V2])
def test_a_v2_body_that_cannot_be_inferred(body: bytes, said: str, scene: Scene) -> None:
    answer = scene.send(*post(V2_PATH, body))
    assert answer.status == 400, answer
    assert said in error_of(answer)


def behind(raw: bytes, document: bytes) -> tuple[bytes, str]:
    """A body of both, and the header that says so."""
    return document + raw, str(len(document))


BAD_BINARY: Final[list[tuple[str, bytes, str, str]]] = [
    ("a header that is longer than the body", WHOLE + bytes(32), "99999", "Inference-Header"),
    ("a negative header", WHOLE + bytes(32), "-1", "Inference-Header"),
    ("a header that is no number", WHOLE + bytes(32), "many", "Inference-Header"),
    ("a header with a sign", WHOLE + bytes(32), f"+{len(WHOLE)}", "Inference-Header"),
    ("a header of 5,000 digits", WHOLE + bytes(32), "9" * 5000, "Inference-Header"),
    ("digits of another script", WHOLE + bytes(32), "\u00b2", "Inference-Header"),
    ("a header that cuts the JSON", WHOLE + bytes(32), "10", "Unrecognized request format"),
    ("a header that takes the tail in", WHOLE + bytes(32), str(len(WHOLE) + 8), "Unrecognized"),
    ("a header of nothing", WHOLE + bytes(32), "0", "Unrecognized request format"),
    ("fewer bytes than it says", WHOLE + bytes(31), str(len(WHOLE)), "31 bytes are left"),
    ("more bytes than it says", WHOLE + bytes(33), str(len(WHOLE)), "1 bytes are left behind"),
    ("a size that is not the shape's", *behind(bytes(24), binary(24)), "24 bytes"),
    ("a negative size", *behind(bytes(32), binary(-1)), "binary_data_size"),
    ("a size of 2^63", *behind(bytes(32), binary(2**63)), "binary_data_size"),
    ("a text for a size", *behind(bytes(32), binary("32")), "binary_data_size"),
    ("true for a size", *behind(bytes(32), binary(True)), "binary_data_size"),
    ("BYTES cut off", *behind(b"\xff" * 32, binary(32, datatype="BYTES")), "cut off"),
    ("NaN", *behind(b"\xff" * 32, WHOLE), "NaN"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "header", "said"), [c[1:] for c in BAD_BINARY], ids=[c[0] for c in BAD_BINARY]
)
def test_binary_tensors_that_lie(body: bytes, header: str, said: str, scene: Scene) -> None:
    line = f"inference-header-content-length: {header}".encode("latin-1")
    answer = scene.send(*post(V2_PATH, body, line, b"content-type: application/octet-stream"))
    assert answer.status == 400, answer
    assert said in error_of(answer)


PATHS: Final[list[tuple[bytes, bytes, int]]] = [
    (b"GET", b"/v1/models/nobody", 404),
    (b"POST", b"/v1/models/nobody:predict", 404),
    (b"POST", b"/v1/models/nobody:explain", 404),
    (b"POST", b"/v2/models/nobody/infer", 404),
    (b"GET", b"/v2/models/nobody", 404),
    (b"GET", b"/v2/models/nobody/ready", 404),
    (b"POST", b"/v2/repository/models/nobody/load", 404),
    (b"POST", b"/v2/repository/models/nobody/unload", 404),
    (b"POST", b"/v1/models/:predict", 400),
    (b"POST", b"/v1/models/iris:fly", 405),
    (b"POST", b"/v1/models/..:predict", 404),
    (b"POST", b"/v1/models/%2e%2e:predict", 404),
    (b"POST", b"/v1/models/../v1/models/iris:predict", 404),
    (b"POST", b"/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd:predict", 404),
    (b"POST", b"/v1/models//iris:predict", 404),
    (b"POST", b"//v1/models/iris:predict", 404),
    (b"POST", b"/v1//models/iris:predict", 404),
    (b"POST", b"/v1/models/iris:predict/", 404),
    (b"GET", b"/v1/models/iris/", 404),
    (b"GET", b"/v1/models/", 404),
    (b"POST", b"/v2/models//infer", 404),
    (b"POST", b"/v2/models/iris/versions//infer", 404),
    (b"GET", b"/v2/models/iris/stats", 404),
    (b"POST", b"/v1/models/iris%00:predict", 404),
    (b"POST", b"/v1/models/%0d%0aset-cookie:%20a=b:predict", 404),
    (b"POST", b"/v1/models/%zz:predict", 400),
    (b"POST", b"/v1/models/%:predict", 400),
    (b"POST", b"/v1/models/%ff%fe:predict", 400),
    (b"POST", b"/v1/models/%ed%a0%80:predict", 400),
    (b"POST", b"/v1/models/%F0%9F%A6%8A:predict", 404),
    (b"POST", b"/v1/models/%e2%80%ae%D7%90:predict", 404),
    (b"POST", b"/v1/models/a%20b:predict", 404),
    (b"POST", b"/v1/models/" + b"n" * 10_000 + b":predict", 404),
    (b"POST", b"/v1/models/" + b"n" * 40_000 + b":predict", 414),
    (b"POST", b"/V1/Models/iris:predict", 404),
    (b"GET", b"/v1/models/iris:predict", 405),
    (b"DELETE", b"/v1/models/iris", 405),
    (b"PUT", b"/v2/models/iris/infer", 405),
    (b"PATCH", b"/v2/models/iris", 405),
    (b"GET", b"/v2/repository/models/iris/unload", 405),
    (b"TRACE", b"/", 405),
    (b"OPTIONS", b"*", 404),
    (b"CONNECT", b"example.org:443", 405),
    (b"GET", b"/etc/passwd", 404),
    (b"GET", b"/debug/pprof", 404),
]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    PATHS,
    ids=[f"{m.decode()} {t.decode()[:60]}" for m, t, _ in PATHS],
)
def test_a_path_that_leads_nowhere(method: bytes, target: bytes, status: int, scene: Scene) -> None:
    answer = scene.send(head(method, target, b"content-length: %d" % len(GOOD_V1)), GOOD_V1)
    assert answer.status == status, answer
    assert set(answer.document) <= {"error", "detail"}
    assert "set-cookie" not in answer.headers


BIG: Final = 17 << 20


def sized(length: bytes) -> tuple[bytes]:
    """Only a head, with this length."""
    return (head(b"POST", GOOD_PATH.encode(), b"content-length: " + length),)


def chunked(body: bytes) -> tuple[bytes, bytes]:
    """A body that says that it comes in chunks."""
    return head(b"POST", GOOD_PATH.encode(), b"transfer-encoding: chunked"), body


FRAMING: Final[list[tuple[str, tuple[bytes, ...], int]]] = [
    ("17 MB", post(GOOD_PATH, b" " * BIG), 413),
    ("17 MB, only announced", sized(b"%d" % BIG), 413),
    ("17 MB in chunks", chunked(b"%x\r\n" % BIG + b" " * BIG), 413),
    ("a header of 9 KB", post(GOOD_PATH, GOOD_V1, b"x-a: " + b"a" * 9216), 431),
    ("10,000 headers", post(GOOD_PATH, GOOD_V1, *(b"x-%d: 1" % n for n in range(10_000))), 431),
    ("a header that never ends", (b"POST / HTTP/1.1\r\nx-a: " + b"a" * 100_000,), 431),
    ("a length and chunks", post(GOOD_PATH, GOOD_V1, b"transfer-encoding: chunked"), 400),
    ("two lengths", post(GOOD_PATH, GOOD_V1, b"content-length: 1"), 400),
    ("a negative length", sized(b"-1"), 400),
    ("a length that is none", sized(b"x"), 400),
    ("a length beyond 64 bits", sized(b"9" * 30), 400),
    ("a chunk that is none", chunked(b"zz\r\n"), 400),
    ("a header without a colon", post(GOOD_PATH, GOOD_V1, b"nonsense"), 400),
    ("NUL in a header", post(GOOD_PATH, GOOD_V1, b"x-a: \x00"), 400),
    ("a space in the path", post("/v1/models/a b:predict", GOOD_V1), 400),
    ("no HTTP at all", (b"hello\r\n\r\n",), 400),
    ("HTTP/0.9", (b"GET /\r\n\r\n",), 505),
    ("HTTP/2", (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",), 400),
    ("HTTP/3.0", (b"GET / HTTP/3.0\r\n\r\n",), 400),
    ("TLS", (bytes.fromhex("16030100f8010000f40303") + bytes(64),), 400),
    ("gzip", post(GOOD_PATH, GOOD_V1, b"content-encoding: gzip"), 400),
    ("another model in a header", post(GOOD_PATH, GOOD_V1, b"mm-model-id: calm-1"), 400),
    ("a vmodel in a header", post(GOOD_PATH, GOOD_V1, b"mm-vmodel-id: v"), 400),
    ("both in headers", post(GOOD_PATH, GOOD_V1, b"mm-model-id: iris", b"mm-vmodel-id: v"), 400),
    ("an empty id in a header", post(GOOD_PATH, GOOD_V1, b"mm-model-id:"), 400),
    ("an id in a header that is not base64", post(GOOD_PATH, GOOD_V1, b"mm-model-id-bin: !"), 400),
    ("a timeout that is none", post(GOOD_PATH, GOOD_V1, b"mm-timeout-ms: soon"), 400),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "status"), [c[1:] for c in FRAMING], ids=[c[0] for c in FRAMING])
def test_a_request_that_breaks_the_rules_of_http(
    sent: tuple[bytes, ...], status: int, scene: Scene
) -> None:
    answer = scene.send(*sent)
    assert answer.status == status, answer
    assert error_of(answer)


def test_chunks_of_one_byte(scene: Scene) -> None:
    """Ten thousand of them: slow is no sin."""
    body = GOOD_V1 + b" " * 10_000
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    assert scene.send(*chunked(chunks)).body == b'{"predictions":[1]}'


def test_a_caller_that_leaves_in_the_middle(scene: Scene) -> None:
    for cut in range(1, 200, 7):
        with scene.connection() as connection:
            connection.sock.sendall(b"".join(post(GOOD_PATH, GOOD_V1))[:cut])
