"""The registry's door over etcd. Keys of the door lie below the configuration's root.

A commit is one transaction: its compares, its changes, and, for where they do not hold, reads of
the compared keys. Reads go through a quorum. Keys that are not text are not ours, and left out.
"""

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self

import structlog

from modelmesh.errors import Code, MeshError, invalid
from modelmesh.pb.etcd import kv_pb2, rpc_pb2
from modelmesh.registry.etcd.client import LONG_TRY_S, EtcdClient
from modelmesh.registry.etcd.config import EtcdConfig
from modelmesh.registry.etcd.links import GRANT, RANGE, REVOKE, TXN, Reread
from modelmesh.registry.etcd.watch import SILENCE_S, EtcdWatch
from modelmesh.registry.keyspace import validate
from modelmesh.registry.store import (
    Change,
    Committed,
    Compacted,
    Compare,
    Entry,
    Event,
    Page,
    Put,
)

log = structlog.get_logger("registry")

_DELETED: Final = kv_pb2.Event.DELETE
_EQUAL: Final = rpc_pb2.Compare.EQUAL
_MOD: Final = rpc_pb2.Compare.MOD

# Entries of a page that are made in one turn of the loop (some 0.5 ms).
_TURN_ENTRIES: Final = 250


class EtcdStore:
    """Made by `open`. `reread` gives the configuration again: its certificates may be new."""

    def __init__(
        self, config: EtcdConfig, *, silence_s: float = SILENCE_S, reread: Reread | None = None
    ) -> None:
        self._client = EtcdClient(config, reread)
        self._root = config.root.encode()
        self._silence_s = silence_s

    @classmethod
    async def open(cls, config: EtcdConfig, reread: Reread | None = None) -> Self:
        """Does not ask etcd anything: a daemon may start while it is away."""
        return cls(config, reread=reread)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def renewals(self) -> int:
        """How often etcd was asked for a token."""
        return self._client.tokens.renewals

    async def identity(self) -> str:
        """Which cluster this is. Another one under the same endpoints is a restore."""
        request = rpc_pb2.RangeRequest(key=self._root, count_only=True)
        header = (await self._client.call(RANGE, request, repeatable=True)).header
        return f"{header.cluster_id:x}"

    async def commit(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Committed:
        validate(compares, changes)
        request = self._transaction(compares, changes)
        answer = await self._client.call(TXN, request, repeatable=not changes)
        if answer.succeeded:
            return Committed(True, answer.header.revision)
        current = tuple(
            (compare.key, _entry_of(found.response_range))
            for compare, found in zip(compares, answer.responses, strict=True)
        )
        return Committed(False, answer.header.revision, current)

    async def get(self, key: str) -> Entry | None:
        request = rpc_pb2.RangeRequest(key=self._key(key))
        return _entry_of(await self._client.call(RANGE, request, repeatable=True))

    async def page(
        self, prefix: str, after: str = "", limit: int = 1000, revision: int = 0
    ) -> Page:
        """As of `revision`, if one is given: then all pages of a listing show the same moment.
        Raises Compacted where that is gone."""
        start = self._key(after) + b"\0" if after >= prefix and after else self._key(prefix)
        end = prefix_end(self._key(prefix))
        entries: list[tuple[str, Entry]] = []
        while True:
            answer = await self._range(start, end, limit - len(entries), revision)
            revision = revision or answer.header.revision
            for at in range(0, len(answer.kvs), _TURN_ENTRIES):
                entries += self._named(answer.kvs[at : at + _TURN_ENTRIES])
                await asyncio.sleep(0)
            if not answer.more or len(entries) >= limit:
                return Page(tuple(entries), revision, answer.more)
            start = answer.kvs[-1].key + b"\0"  # foreign keys were left out

    def watch(self, prefix: str, after_revision: int) -> EtcdWatch:
        key = self._key(prefix)
        return EtcdWatch(
            self._client,
            key,
            prefix_end(key),
            after_revision,
            self._event,
            silence_s=self._silence_s,
        )

    async def grant(self, ttl_s: float) -> int:
        """etcd counts in whole seconds: a fraction is rounded up."""
        if not ttl_s > 0:
            raise invalid(f"a lease needs a time to live above 0 s, not {ttl_s}")
        request = rpc_pb2.LeaseGrantRequest(TTL=math.ceil(ttl_s))
        lease: int = (await self._client.call(GRANT, request, repeatable=True)).ID
        return lease

    async def keep_alive(self, lease: int) -> bool:
        return await self._client.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        try:
            await self._client.call(REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease), repeatable=True)
        except MeshError as error:
            if error.failure.code is not Code.NOT_FOUND:
                raise

    async def close(self) -> None:
        await self._client.close()

    async def _range(self, start: bytes, end: bytes, limit: int, revision: int) -> Any:
        request = rpc_pb2.RangeRequest(key=start, range_end=end, limit=limit, revision=revision)
        try:
            return await self._client.call(RANGE, request, repeatable=True, try_s=LONG_TRY_S)
        except MeshError as error:
            if error.failure.code is Code.OUT_OF_RANGE:
                raise Compacted from error
            raise

    def _key(self, key: str) -> bytes:
        return self._root + key.encode()

    def _named(self, kvs: Iterable[Any]) -> Iterator[tuple[str, Entry]]:
        """Those whose keys are ours. Called once a model: no call in it that need not be."""
        root_bytes = len(self._root)
        for kv in kvs:
            try:
                key = kv.key[root_bytes:].decode()
            except UnicodeDecodeError:
                self._name(kv.key)  # it says so
                continue
            yield key, _entry(kv)

    def _name(self, key: bytes) -> str | None:
        """The door's name for one of etcd's keys."""
        try:
            return key[len(self._root) :].decode()
        except UnicodeDecodeError:
            log.warning("a key of the registry is not text; left out", key=repr(key))
            return None

    def _event(self, event: Any) -> Event | None:
        key = self._name(event.kv.key)
        if key is None:
            return None
        deleted = event.type == _DELETED
        return Event(key, None if deleted else _entry(event.kv), event.kv.mod_revision)

    def _transaction(self, compares: Sequence[Compare], changes: Sequence[Change]) -> Any:
        """Filled in place: a message that is made by itself is copied into the one around it."""
        request = rpc_pb2.TxnRequest()
        for compare in compares:
            key = self._key(compare.key)
            revision = compare.mod_revision
            request.compare.add(key=key, target=_MOD, result=_EQUAL, mod_revision=revision)
            request.failure.add().request_range.key = key
        for change in changes:
            operation, key = request.success.add(), self._key(change.key)
            if isinstance(change, Put):
                put = operation.request_put
                put.key, put.value, put.lease = key, change.value, change.lease
            else:
                operation.request_delete_range.key = key
        return request


def prefix_end(prefix: bytes) -> bytes:
    """The first key that sorts behind all keys with this prefix (etcd's b"\\0": there is none)."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else b"\0"


def _entry(kv: Any) -> Entry:
    """Its revisions are one int where they are equal, as the tables want it."""
    created, modified = kv.create_revision, kv.mod_revision
    return Entry(kv.value, modified if created == modified else created, modified, kv.lease)


def _entry_of(answer: Any) -> Entry | None:
    return _entry(answer.kvs[0]) if answer.kvs else None
