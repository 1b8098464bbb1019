"""A registered path as text: its scheme, and the local path that it means.

Pure: strings in, strings out; what lies there is looked at when the model is fetched.
"""

import re
from typing import Final
from urllib.parse import unquote

from modelmesh.errors import MeshError, invalid

# Linux takes no longer path in one call.
PATH_BYTES: Final = 4095

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")  # s3:/typo is no local path either
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def scheme_of(path: str) -> str:
    """The path's scheme in lower case; "file" for a plain path (and for "", which needs none)."""
    found = _SCHEME.match(path)
    return found[1].lower() if found else "file"


def unsupported(path: str, schemes: tuple[str, ...]) -> MeshError:
    """Nobody here can fetch this path."""
    works = ", ".join(f"{scheme}://" for scheme in schemes)
    return invalid(
        f"path {path!r}: scheme {scheme_of(path)!r} is not supported; use {works} or a local path"
    )


def local_path(path: str) -> str:
    """The local path that a plain path or file:// URI means; INVALID_ARGUMENT if it means none.

    `..` is refused wherever it stands: a path names one place, whoever reads it.
    """
    local = _of_uri(path) if _SCHEME.match(path) else path
    try:
        size = len(local.encode())
    except UnicodeEncodeError:
        raise invalid(f"path {path!r} is not valid Unicode") from None
    if size > PATH_BYTES:
        raise invalid(f"the path has {size} bytes, at most {PATH_BYTES} can be opened")
    if "\0" in local:
        raise invalid(f"path {path!r} has a NUL character")
    if ".." in local.split("/"):
        raise invalid(f"path {path!r} has a '..' segment")
    return local


def _of_uri(uri: str) -> str:
    if _BAD_ESCAPE.search(uri):
        raise invalid(f"path {uri!r}: a '%' in a URI starts an escape such as %20")
    if "?" in uri or "#" in uri:
        raise invalid(f"path {uri!r}: write '?' as %3F and '#' as %23 in a file URI")
    rest = uri.split(":", 1)[1]
    host, slash, rest = rest[2:].partition("/") if rest.startswith("//") else rest.partition("/")
    if host.lower() not in ("", "localhost"):
        raise invalid(f"path {uri!r}: a file URI's host is empty or localhost, not {host!r}")
    if not slash:
        raise invalid(f"path {uri!r} names no file")
    try:
        return "/" + unquote(rest, errors="strict")
    except UnicodeDecodeError:
        raise invalid(f"path {uri!r} is not UTF-8 once it is decoded") from None
