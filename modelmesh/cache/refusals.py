"""Why an admission is refused, as callers see it (the status contract in docs/ARCHITECTURE.md)."""

from modelmesh.cache.ledger import Ledger
from modelmesh.errors import Code, Failure, Fault, Reason

UNREGISTERED = Failure(Code.NOT_FOUND, "the model is no longer registered")


def cannot_fit(size_bytes: int, ledger: Ledger) -> Failure:
    """Larger than all room there is: for good, or while so much goes to overhead."""
    if size_bytes > ledger.capacity_bytes:
        return Failure(
            Code.FAILED_PRECONDITION,
            f"the model needs {size_bytes:,} bytes, this daemon has {ledger.capacity_bytes:,}",
            Fault.MODEL,
            Reason.TOO_LARGE,
        )
    return Failure(
        Code.UNAVAILABLE,
        f"the model needs {size_bytes:,} bytes, but overhead leaves {ledger.usable_bytes:,} now",
        Fault.CAPACITY,
        Reason.NO_SPACE,
        retry_after_s=1.0,
    )


def kept(size_bytes: int, left_bytes: int) -> Failure:
    """Models that are not to go have the room."""
    return Failure(
        Code.UNAVAILABLE,
        f"the model needs {size_bytes:,} bytes, but models that are pinned leave {left_bytes:,}",
        Fault.CAPACITY,
        Reason.NO_SPACE,
        retry_after_s=5.0,
    )


def stuck() -> Failure:
    """The runtime does not let go of it, so it cannot be loaded anew; elsewhere it can."""
    return Failure(
        Code.UNAVAILABLE,
        "an earlier copy of the model cannot be unloaded from the runtime",
        Fault.CAPACITY,
        Reason.NO_SPACE,
        retry_after_s=5.0,
    )


def churn(wait_s: float) -> Failure:
    """Room could only come from models that were loaded just now."""
    return Failure(
        Code.RESOURCE_EXHAUSTED,
        f"no model has been loaded long enough to make room; the first may go in {wait_s:.1f} s",
        Fault.CAPACITY,
        Reason.CHURN,
        retry_after_s=wait_s,
    )


def queue_full(waiting: int) -> Failure:
    return Failure(
        Code.RESOURCE_EXHAUSTED,
        f"{waiting:,} models wait for room already",
        Fault.CAPACITY,
        Reason.OVERLOADED,
        retry_after_s=1.0,
    )
