"""What routing looks at: this daemon's own models, and (`FleetView`) the other instances.

Every answer is a look-up in memory, because a warm request asks several. A view holds no state of
its own but what only routing needs: loads sent to others that their records cannot show yet, and
copies that a peer has just said it does not hold.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Final

from cachetools import TTLCache

from modelmesh.domain.fleet import Peer
from modelmesh.domain.instances import InstanceRecord
from modelmesh.domain.records import ModelRecord
from modelmesh.errors import Failure, MeshError
from modelmesh.peers.door import Peers
from modelmesh.policy.placement import Fits, Sent
from modelmesh.policy.routing import Weight
from modelmesh.serving.parts import Parts

# Until a peer that was sent a load has published it (fleet.md: at most once a second), with room.
PLACING_S: Final = 3.0
# A peer that does not hold what its record says takes this long, with room, to have it corrected.
REFUSED_S: Final = 2.0
_MOST_REFUSED: Final = 10_000
# How fast the mean of warm answers follows.
_LATENCY_WEIGHT: Final = 0.1


class View:
    """The models of one daemon."""

    alone = True

    def __init__(self, parts: Parts) -> None:
        self._models = parts.models
        self._copies = parts.copies
        self._loader = parts.loader
        self._failures = parts.failures
        self.draining = False

    def is_registered(self, model_id: str) -> bool:
        return model_id in self._models

    def is_loaded(self, model_id: str) -> bool:
        return self._copies.is_loaded(model_id)

    def is_coming(self, model_id: str) -> bool:
        return self._loader.is_coming(model_id)

    def remembered_failure(self, model_id: str, now: float) -> Failure | None:
        return self._failures.blocking(model_id, now)

    def answered(self, seconds: float) -> None:
        """A warm call took this long here."""


class Placing:
    """Loads that this daemon sent to instances, until their records can show them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sent: dict[str, list[tuple[float, int]]] = {}
        self._totals: dict[str, Sent] = {}
        self._stale_at = 0.0

    def note(self, instance_id: str, size_bytes: int) -> None:
        """One more load was sent there now."""
        now = self._clock()
        self._sent.setdefault(instance_id, []).append((now, size_bytes))
        before = self._totals.get(instance_id, Sent(0, 0))
        self._totals[instance_id] = Sent(before.loads + 1, before.size_bytes + size_bytes)
        self._stale_at = self._stale_at or now + PLACING_S

    def published(self, instance_id: str) -> None:
        """Its record is new: what was sent there stands in it."""
        self._sent.pop(instance_id, None)
        self._totals.pop(instance_id, None)

    def totals(self) -> Mapping[str, Sent]:
        """By instance."""
        if self._stale_at and self._clock() >= self._stale_at:
            self._forget_old()
        return self._totals

    def _forget_old(self) -> None:
        since = self._clock() - PLACING_S
        kept = {each: [s for s in sent if s[0] > since] for each, sent in self._sent.items()}
        self._sent = {each: sent for each, sent in kept.items() if sent}
        self._totals = {
            each: Sent(len(sent), sum(size for _, size in sent))
            for each, sent in self._sent.items()
        }
        oldest = min((sent[0][0] for sent in self._sent.values()), default=None)
        self._stale_at = 0.0 if oldest is None else oldest + PLACING_S


class FleetView(View):
    """The same beside the others. `me` is this instance's id."""

    alone = False

    def __init__(
        self,
        parts: Parts,
        me: str,
        peers: Peers,
        *,
        published: Callable[[], InstanceRecord],
        store_answers: Callable[[], bool],
        open_calls: Callable[[], int],
        wall_ms: Callable[[], int],
        default_size_bytes: int,
        fits: Fits | None = None,
    ) -> None:
        """`published`: this instance's own record."""
        super().__init__(parts)
        self.me = me
        self.fits = fits
        self.replaced_versions: Collection[int] = ()
        self._peers = peers
        self._published = published
        self._store_answers = store_answers
        self._open_calls = open_calls
        self._clock = parts.clock
        self._wall_ms = wall_ms
        self._default_size_bytes = default_size_bytes
        self._placing = Placing(parts.clock)
        self._refused: TTLCache[tuple[str, str], None] = TTLCache(
            _MOST_REFUSED, REFUSED_S, parts.clock
        )
        self._latency_s = 0.0
        self._load_s = 1.0

    # --- the others

    def peer(self, instance_id: str) -> Peer | None:
        return self._peers.get(instance_id)

    def peers(self) -> Collection[Peer]:
        return self._peers.all()

    @property
    def my_record(self) -> InstanceRecord:
        record = self._published()
        return replace(record, draining=True) if self.draining and not record.draining else record

    @property
    def store_answers(self) -> bool:
        return self._store_answers()

    # --- models

    def record(self, model_id: str) -> ModelRecord | None:
        """None also where the record cannot be read (`unreadable`)."""
        try:
            return self._models.get(model_id)
        except MeshError:
            return None

    def unreadable(self, model_id: str) -> Failure | None:
        """Why the record that is there cannot be read."""
        try:
            self._models.get(model_id)
        except MeshError as error:
            return error.failure
        return None

    def weigh(self, model_id: str, record: ModelRecord) -> Weight:
        known = self._copies.known_bytes(model_id)
        return Weight(known or self._default_size_bytes)

    def used_ms(self, model_id: str) -> int:
        """When the copy here was used last; 0: not since it was loaded, if it is."""
        copy = self._copies.get(model_id)
        return round(self.record_ms(copy.last_used)) if copy is not None and copy.uses else 0

    def record_ms(self, now: float) -> float:
        return self._wall_ms() - (self._clock() - now) * 1000

    # --- what was done and heard lately

    @property
    def placing(self) -> Mapping[str, Sent]:
        return self._placing.totals()

    def note_sent(self, instance_id: str, size_bytes: int) -> None:
        """A load was sent there (or begun here)."""
        self._placing.note(instance_id, size_bytes)

    def note_begun(self, model_id: str) -> None:
        """A load of it begins here: what this instance has published does not say so yet."""
        record = self.record(model_id)
        if record is not None:
            self.note_sent(self.me, self.weigh(model_id, record).size_bytes)

    def published(self, instance_id: str) -> None:
        """That instance has a new record."""
        self._placing.published(instance_id)

    def note_refused(self, model_id: str, instance_id: str) -> None:
        """That instance holds no copy of the model, whatever the record says."""
        self._refused[model_id, instance_id] = None

    def counts(self, model_id: str, instance_id: str) -> bool:
        """Whether a copy or claim of that instance binds: it exists, answers and did not refuse."""
        peer = self._peers.get(instance_id)
        return peer is not None and peer.answers and (model_id, instance_id) not in self._refused

    # --- time

    @property
    def typical_load_s(self) -> float:
        return self._load_s

    def loaded(self, load_s: float) -> None:
        """A load took so long here."""
        self._load_s += (max(load_s, 0.001) - self._load_s) * _LATENCY_WEIGHT

    def answered(self, seconds: float) -> None:
        self._latency_s += (seconds - self._latency_s) * _LATENCY_WEIGHT

    def my_load_s(self, model_id: str) -> float:
        return (self._open_calls() + 1) * self._latency_s
