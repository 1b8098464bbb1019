"""How a command ends: its status, and the one line that says why.

Programs read the status, people the line. The line always says whose fault it was and whether the
same command can succeed later, because that is what somebody does next. These numbers are a public
contract (README); this module must never grow another way to fail.
"""

import json
from enum import IntEnum

from modelmesh.errors import Code, Failure, Fault


class Exit(IntEnum):
    """The statuses of every command but `serve`, which ends with the daemon's own."""

    OK = 0
    FAILED = 1  # refused, or it did not work
    USAGE = 2  # the command line or a file that it names makes no sense
    UNREACHABLE = 3  # no daemon answers there
    INTERRUPTED = 130  # Ctrl-C, as shells have it


class BadUsage(Exception):
    """One sentence that says what is wrong with the command or with a file that it names."""


class CommandFailed(Exception):
    """A failure that ends the command; `hint` is what to do where the failure does not say."""

    def __init__(self, failure: Failure, status: Exit = Exit.FAILED, hint: str = "") -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.status = status
        self.hint = hint


def unreachable(address: str, why: str) -> CommandFailed:
    """Nobody listens there, or the line broke."""
    failure = Failure(Code.UNAVAILABLE, f"nothing answers at {address}: {why}", Fault.PEER)
    return CommandFailed(failure, Exit.UNREACHABLE, "retry when it runs")


def too_late(address: str) -> CommandFailed:
    """The command's own patience ended; the daemon may still be at it."""
    failure = Failure(Code.DEADLINE_EXCEEDED, f"no answer from {address} in time", Fault.PEER)
    return CommandFailed(failure, hint="--timeout waits longer")


def line_of(error: CommandFailed) -> str:
    """One line for people: whose fault, what, and whether a retry helps."""
    failure = error.failure
    whose = "no daemon" if error.status is Exit.UNREACHABLE else f"{failure.fault}'s fault"
    code = f"{failure.code.name} {failure.reason}".rstrip()
    return f"{whose}: {failure.message} ({code}; {_retry(error)})"


def document_of(error: CommandFailed) -> str:
    """The same for programs, with stable keys."""
    failure = error.failure
    document = {
        "fault": "network" if error.status is Exit.UNREACHABLE else failure.fault,
        "message": failure.message,
        "code": failure.code.name,
        "reason": failure.reason,
        "retry_after_s": failure.retry_after_s,
    }
    return json.dumps({"error": document}, ensure_ascii=False)


def _retry(error: CommandFailed) -> str:
    if error.hint:
        return error.hint
    if error.failure.retry_after_s is None:
        return "a retry will not help"
    return f"retry in {error.failure.retry_after_s:g} s"
