"""One short HTTP question to a child on this machine. Nothing more than `up` needs: no redirects,
no chunks, no kept connections; the answer arrives whole within a bound, or there is none.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from modelmesh.cli.up.children import HOST

MOST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Answered:
    """Status and body."""

    status: int
    body: bytes


async def get(port: int, path: str, within_s: float) -> Answered | None:
    """What it answers; None if nobody does, in time and in HTTP."""
    try:
        async with asyncio.timeout(within_s):
            reader, writer = await asyncio.open_connection(HOST, port, limit=MOST_BYTES)
            try:
                host = f"Host: {HOST}:{port}\r\nConnection: close\r\n"
                writer.write(f"GET {path} HTTP/1.1\r\n{host}\r\n".encode())
                return _parsed(await reader.read(-1))
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None


def _parsed(answer: bytes) -> Answered | None:
    head, _, body = answer.partition(b"\r\n\r\n")
    parts = head.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        return None
    return Answered(int(parts[1]), body)
