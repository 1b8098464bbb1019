"""What an exception of model code means to the caller: the status contract for models.

Model code is hostile until shown otherwise: an exception's text may be huge, hold control
characters, or raise when it is asked for. `SystemExit` and `KeyboardInterrupt` are failures like
any other: a pickle must not end the host that reads it.

Pure.
"""

from typing import Final

from modelmesh.errors import Code, Failure, Fault, MeshError, Reason
from runtime_adapters.base import BadInput, BadModel

MOST_CHARACTERS: Final = 1000
_RETRY_S: Final = 1.0


def text_of(raised: BaseException) -> str:
    """`TypeName : message`, printable and bounded."""
    try:
        message = str(raised)
    except BaseException:  # __str__ is model code too
        message = "an exception that cannot be printed"
    kind = type(raised).__name__
    return printable(message if isinstance(raised, BadInput | BadModel) else f"{kind} : {message}")


def printable(text: str) -> str:
    """One line, without control characters or lone surrogates, of bounded length."""
    bounded = text[: 2 * MOST_CHARACTERS]
    shown = "".join(mark if mark.isprintable() else " " for mark in bounded)
    if len(shown) > MOST_CHARACTERS or len(text) > len(bounded):
        shown = f"{shown[: MOST_CHARACTERS - 1]}…"
    return shown


def of_predict(raised: BaseException) -> Failure:
    """Why one request failed."""
    if isinstance(raised, MeshError):
        return raised.failure
    if isinstance(raised, BadInput):
        return Failure(Code.INVALID_ARGUMENT, text_of(raised), executed=True)
    if isinstance(raised, NotImplementedError):
        return Failure(Code.UNIMPLEMENTED, text_of(raised), Fault.MODEL, executed=True)
    return model_error(text_of(raised))


def model_error(message: str) -> Failure:
    """The model broke, or answered what cannot be passed on."""
    return Failure(
        Code.INTERNAL, printable(message), Fault.MODEL, Reason.MODEL_ERROR, executed=True
    )


def of_load(raised: BaseException, *, alone: bool) -> Failure:
    """Why a load failed. `alone`: no other model shares the memory that was not enough."""
    text = text_of(raised)
    if not isinstance(raised, MemoryError):
        return Failure(Code.FAILED_PRECONDITION, text, Fault.MODEL, Reason.LOAD_FAILED)
    if alone:
        return Failure(Code.FAILED_PRECONDITION, text, Fault.MODEL, Reason.TOO_LARGE)
    return Failure(Code.UNAVAILABLE, text, Fault.CAPACITY, Reason.NO_SPACE, _RETRY_S)


def not_held(model_id: str) -> Failure:
    """The model is not loaded in this host; nothing was run."""
    return Failure(Code.NOT_FOUND, f"model {printable(model_id)} is not loaded here")


TOO_LATE: Final = Failure(
    Code.DEADLINE_EXCEEDED, "the deadline passed before the call started", reason=Reason.DEADLINE
)
