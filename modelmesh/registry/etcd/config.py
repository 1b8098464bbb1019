"""What `KV_STORE=etcd:...` says: where etcd is, who we are to it, under which root our keys lie.

The forms are ModelMesh's: the path of a JSON file with its keys, or endpoints with an optional root
prefix. A file that names certificates means them as written, else beside itself. The daemon's keys
lie below `<root prefix>/<store prefix>/<service name>/`, as ModelMesh lays them out, so that either
finds what the other left.

Pure: files are read by whoever calls. Must never let a password into a repr.
"""

import os.path
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from modelmesh.errors import invalid

DEFAULT_PORT: Final = 2379
STORE_PREFIX: Final = "tas-runtime"  # ModelMesh's default for MM_KVSTORE_PREFIX

Read = Callable[[str], bytes | None]  # a file's content; None if there is no such file

_ENDPOINT: Final = re.compile(r"(?:(https?)://)?(\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9_.\-]+)(?::(\d+))?/?")
_SIMPLE: Final = re.compile(r"([^;]+)(?:;rootPrefix=(.*))?", re.DOTALL)
_KEYS: Final = frozenset(
    {
        "endpoints",
        "userid",
        "password",
        "root_prefix",
        "certificate",
        "certificate_file",
        "override_authority",
        "client_key",
        "client_key_file",
        "client_certificate",
        "client_certificate_file",
        "tls_mode",
    }
)


@dataclass(frozen=True, slots=True)
class Tls:
    """How to trust the server (None: as the machine does), and our own certificate, all PEM."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)
    authority: str = ""  # the name that the server's certificate must have, if not the host's


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """One etcd cluster, and our place in it. `root` ends with a slash."""

    endpoints: tuple[str, ...]  # host:port
    root: str
    user: str = ""
    password: str = field(default="", repr=False)
    tls: Tls | None = None


def parse(text: str, service: str, read: Read, *, store_prefix: str = STORE_PREFIX) -> EtcdConfig:
    """What stands after `etcd:` in KV_STORE. INVALID_ARGUMENT says what is wrong with it."""
    document = read(text)
    if document is not None:
        keys = _document(text, document)
        folder = os.path.dirname(text)
    else:
        match = _SIMPLE.fullmatch(text)
        if match is None or "/" in text.split("://")[-1].split(";")[0].rstrip("/"):
            raise invalid(f"KV_STORE=etcd:{text} names neither a file nor endpoints")
        keys = {"endpoints": match[1], "root_prefix": match[2] or ""}
        folder = ""
    return _config(keys, folder, read, f"/{store_prefix}/{service}/")


def _document(path: str, document: bytes) -> dict[str, str]:
    """The file's keys, all of them strings."""
    try:
        keys: Any = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise invalid(f"{path} is not JSON: {error}") from error
    if not isinstance(keys, dict):
        raise invalid(f"{path} is not a JSON object")
    if "compose_deployment" in keys:
        raise invalid(f"{path}: compose_deployment is not supported, use override_authority")
    wrong = [key for key in _KEYS if not isinstance(keys.get(key, ""), str | None)]
    if wrong:
        raise invalid(f"{path}: {', '.join(sorted(wrong))} must be text")
    return {key: keys[key] for key in _KEYS if keys.get(key)}


def _config(keys: Mapping[str, str], folder: str, read: Read, place: str) -> EtcdConfig:
    wanted = [each.strip() for each in keys.get("endpoints", "").split(",") if each.strip()]
    if not wanted:
        raise invalid("etcd's configuration names no endpoints")
    endpoints = [_endpoint(each) for each in wanted]
    pem = {
        name: _pem(keys, name, folder, read)
        for name in ("certificate", "client_certificate", "client_key")
    }
    if (pem["client_certificate"] is None) != (pem["client_key"] is None):
        raise invalid("etcd's configuration must give client_key and client_certificate together")
    tls = None
    if _wants_tls(keys.get("tls_mode", "AUTO"), endpoints[0][0], any(pem.values())):
        tls = Tls(
            pem["certificate"],
            pem["client_certificate"],
            pem["client_key"],
            keys.get("override_authority", ""),
        )
    return EtcdConfig(
        tuple(dict.fromkeys(address for _, address in endpoints)),
        keys.get("root_prefix", "") + place,
        keys.get("userid", ""),
        keys.get("password", ""),
        tls,
    )


def _endpoint(text: str) -> tuple[str, str]:
    """Its scheme (or none) and address."""
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        raise invalid(f"etcd endpoint {text!r} is not [http[s]://]host[:port]")
    return match[1] or "", f"{match[2]}:{match[3] or DEFAULT_PORT}"


def _wants_tls(mode: str, first_scheme: str, has_certificates: bool) -> bool:
    """As ModelMesh decides it: the first endpoint's scheme, else whether there is a certificate."""
    if mode.upper() not in ("TLS", "PLAINTEXT", "AUTO"):
        raise invalid(f"tls_mode is {mode!r}; these are: TLS, PLAINTEXT, AUTO")
    if mode.upper() == "AUTO":
        return first_scheme == "https" or (not first_scheme and has_certificates)
    return mode.upper() == "TLS"


def _pem(keys: Mapping[str, str], name: str, folder: str, read: Read) -> bytes | None:
    """A certificate or key: the file's, else the one in the configuration itself."""
    path = keys.get(f"{name}_file")
    if path:
        content = read(path)
        if content is None:
            content = read(os.path.join(folder, path))
        if content is not None:
            return content
        if name not in keys:
            raise invalid(f"etcd's {name}_file {path} does not exist")
    return keys[name].encode() if name in keys else None
