"""A JSON request body, whatever its content type says, and nothing else.

curl sends JSON as a form and clients forget the header, so the body decides. Numbers and nesting
are bounded by the parser: NaN, Infinity, 1e400 and 1,024 levels are refused; of duplicate keys the
last one wins, as everywhere. Pure.
"""

from typing import Any

import orjson

from modelmesh.codec.tensors import Raw
from modelmesh.errors import invalid


def parse_object(body: Raw) -> dict[str, Any]:
    """The object that the body is; the text of the refusal is KServe's."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise invalid(f"Unrecognized request format: {error}") from error
    if not isinstance(value, dict):
        raise invalid("Unrecognized request format: the body is not a JSON object")
    return value
