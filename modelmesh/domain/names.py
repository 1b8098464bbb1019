"""What a model may be called, decided in one place for every face.

An id is a name and no path: `..`, `/`, spaces, any script and emoji are fine, since nothing here
opens a file by it. Refused is what would lie to somebody who reads it: control characters and line
ends (in logs, headers and tables), half a surrogate pair (no UTF-8 carries it), and more bytes than
a key, a URL or a header should have to hold.

Only a registration is judged. Whoever asks for a name that cannot be registered is told that there
is no such model, and a model that another version registered under one can still be removed.
"""

import re
from typing import Final

from modelmesh.errors import Code, Failure

# In UTF-8. As long as an object's name in S3; in a URL, where a byte takes three, and in a header,
# where base64 makes 4 of 3, it stays within the 8 KiB that most servers take.
MOST_BYTES: Final = 1024

_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

EMPTY: Final = Failure(Code.INVALID_ARGUMENT, "must provide non-empty modelId")


def refusal(model_id: str) -> Failure | None:
    """Why no model can be registered under this name, or None. The name is not repeated."""
    if not model_id:
        return EMPTY
    unsafe = _UNSAFE.search(model_id)
    if unsafe is not None:
        return _invalid(f"must not contain U+{ord(unsafe[0]):04X} (at character {unsafe.start()})")
    size_bytes = len(model_id.encode())
    if size_bytes > MOST_BYTES:
        return _invalid(f"has {size_bytes} bytes of UTF-8, more than {MOST_BYTES}")
    return None


def fits_header(model_id: str) -> bool:
    """Whether a text header carries the id as it is: visible ASCII, no space at either end.

    What does not fit goes into the header of the same name with `-bin`, as UTF-8.
    """
    return model_id.isascii() and model_id.isprintable() and model_id.strip(" ") == model_id


def _invalid(why: str) -> Failure:
    return Failure(Code.INVALID_ARGUMENT, f"the modelId {why}")
