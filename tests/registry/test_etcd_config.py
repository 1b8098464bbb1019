"""What KV_STORE=etcd:... says, as ModelMesh understands it."""

import json
from typing import Any

import pytest

from modelmesh.errors import Code, MeshError
from modelmesh.registry.etcd.config import EtcdConfig, Tls, parse

FILES = {"/certs/ca.pem": b"CA", "/etc/mm/client.pem": b"CERT", "/etc/mm/client.key": b"KEY"}


def parsed(text: str, document: Any = None, **wanted: str) -> EtcdConfig:
    files = dict(FILES)
    if document is not None:
        files["/etc/mm/etcd.json"] = json.dumps(document).encode()
    return parse(text, "svc", files.get, **wanted)


@pytest.mark.parametrize(
    ("text", "endpoints", "root", "tls"),
    [
        ("localhost", ("localhost:2379",), "/tas-runtime/svc/", False),
        ("localhost:1", ("localhost:1",), "/tas-runtime/svc/", False),
        ("http://a:1,http://b:2", ("a:1", "b:2"), "/tas-runtime/svc/", False),
        ("http://a:1/, http://a:1", ("a:1",), "/tas-runtime/svc/", False),
        ("https://a.b-c.d", ("a.b-c.d:2379",), "/tas-runtime/svc/", True),
        ("http://[::1]:5,[::2]", ("[::1]:5", "[::2]:2379"), "/tas-runtime/svc/", False),
        ("a:1;rootPrefix=ns", ("a:1",), "ns/tas-runtime/svc/", False),
        ("a:1;rootPrefix=/x/y", ("a:1",), "/x/y/tas-runtime/svc/", False),
        ("a:1;rootPrefix=", ("a:1",), "/tas-runtime/svc/", False),
    ],
)
def test_endpoints_and_a_root(text: str, endpoints: tuple[str, ...], root: str, tls: bool) -> None:
    assert parsed(text) == EtcdConfig(endpoints, root, tls=Tls() if tls else None)


def test_the_store_prefix_is_the_operators() -> None:
    assert parsed("a;rootPrefix=modelmesh-serving", store_prefix="mm").root == (
        "modelmesh-serving/mm/svc/"
    )


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (
            {"endpoints": "http://etcd:2379", "root_prefix": "modelmesh-serving"},
            EtcdConfig(("etcd:2379",), "modelmesh-serving/tas-runtime/svc/"),
        ),
        (
            {"endpoints": "http://e", "userid": "root", "password": "pw", "further": 1},
            EtcdConfig(("e:2379",), "/tas-runtime/svc/", "root", "pw"),
        ),
        (
            {"endpoints": "e", "certificate": "INLINE", "override_authority": "etcd.local"},
            EtcdConfig(
                ("e:2379",), "/tas-runtime/svc/", tls=Tls(b"INLINE", authority="etcd.local")
            ),
        ),
        (
            {
                "endpoints": "https://e",
                "certificate_file": "/certs/ca.pem",
                "client_certificate_file": "client.pem",
                "client_key_file": "client.key",
            },
            EtcdConfig(("e:2379",), "/tas-runtime/svc/", tls=Tls(b"CA", b"CERT", b"KEY")),
        ),
        (
            {"endpoints": "e", "client_certificate": "C", "client_key": "K", "tls_mode": "TLS"},
            EtcdConfig(("e:2379",), "/tas-runtime/svc/", tls=Tls(None, b"C", b"K")),
        ),
        (
            {"endpoints": "https://e", "certificate": "CA", "tls_mode": "plaintext"},
            EtcdConfig(("e:2379",), "/tas-runtime/svc/"),
        ),
        (
            {"endpoints": "http://e", "certificate": "CA", "tls_mode": "AUTO"},
            EtcdConfig(("e:2379",), "/tas-runtime/svc/"),
        ),
        (  # a file that is not there, but the same within the document
            {"endpoints": "e", "certificate_file": "/gone.pem", "certificate": "INLINE"},
            EtcdConfig(("e:2379",), "/tas-runtime/svc/", tls=Tls(b"INLINE")),
        ),
        (
            {"endpoints": "e", "userid": None, "root_prefix": None},
            EtcdConfig(("e:2379",), "/tas-runtime/svc/"),
        ),
    ],
)
def test_a_file_with_modelmeshs_keys(document: dict[str, Any], expected: EtcdConfig) -> None:
    assert parsed("/etc/mm/etcd.json", document) == expected


@pytest.mark.parametrize(
    ("text", "document", "says"),
    [
        ("", None, "neither a file nor endpoints"),
        ("/etc/mm/gone.json", None, "neither a file nor endpoints"),
        ("a:1;prefix=x", None, "neither a file nor endpoints"),
        ("a:port", None, "is not"),
        ("ftp://a:1", None, "is not"),
        (",", None, "no endpoints"),
        ("/etc/mm/etcd.json", [], "not a JSON object"),
        ("/etc/mm/etcd.json", {}, "no endpoints"),
        ("/etc/mm/etcd.json", {"endpoints": ["a:1"]}, "endpoints must be text"),
        ("/etc/mm/etcd.json", {"endpoints": "a", "tls_mode": "maybe"}, "tls_mode"),
        ("/etc/mm/etcd.json", {"endpoints": "a", "client_key": "K"}, "together"),
        ("/etc/mm/etcd.json", {"endpoints": "a", "certificate_file": "/gone"}, "does not exist"),
        ("/etc/mm/etcd.json", {"endpoints": "a", "compose_deployment": "x"}, "not supported"),
    ],
)
def test_what_is_wrong_is_said(text: str, document: Any, says: str) -> None:
    with pytest.raises(MeshError, match=says) as caught:
        parsed(text, document)
    assert caught.value.failure.code is Code.INVALID_ARGUMENT


def test_a_file_that_is_no_json() -> None:
    with pytest.raises(MeshError, match="is not JSON"):
        parse("/certs/ca.pem", "svc", FILES.get)


def test_secrets_do_not_show() -> None:
    config = EtcdConfig(("a:1",), "/", "root", "hunter2", Tls(b"CA", b"CERT", b"hunter3"))
    assert "hunter" not in repr(config)
