"""The cache under any sequence of events: what its docstring says always holds, does.

The machine plays the shell: it begins the loads and unloads it is told to, and ends them in any
order, well or badly, while models are used, grow, get lost, are forgotten, and time passes.
"""

from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from modelmesh.cache.copies import Copies
from modelmesh.cache.copy import Copy
from modelmesh.cache.decisions import Effect, Fate, Load, Refuse, State, Unload, Verdict, Why
from modelmesh.policy.scaling import Keeping

MODELS = st.sampled_from("abcdefgh")
SIZES = st.integers(1, 40)
CAPACITY = 50
IDLE = (Fate.EVICT, Fate.NOT_NEEDED, Fate.LAST_COPY, Fate.KEPT)


class Shell(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.copies = Copies(CAPACITY)
        self.now = 0.0
        self.loading: set[str] = set()
        self.unloading: set[str] = set()
        self.stuck: set[str] = set()  # of those
        self.calls: list[Copy] = []
        self.admitted: set[str] = set()  # waiting, as far as we were told
        self.kept: dict[str, Keeping] = {}

    @initialize(policy=st.sampled_from(["gdsf", "lru"]), wishes=st.booleans())
    def choose(self, policy: str, wishes: bool) -> None:
        self.copies = Copies(CAPACITY, policy, max_waiting=5, half_life_s=20.0)
        if wishes:
            self.copies.keep_by(self.keeping)

    def keeping(self, model_id: str) -> Keeping:
        return self.kept.get(model_id, Keeping.FREE)

    def nobody_goes_who_is_kept(self, effects: tuple[Effect, ...]) -> None:
        """Only what may go is evicted, and last copies only for want of what is free."""
        evicted = [
            copy
            for effect in effects
            if isinstance(effect, Unload) and effect.why is Why.EVICTED
            if (copy := self.copies.get(effect.model_id)) is not None
        ]
        kept = [self.keeping(copy.model_id) for copy in evicted]
        assert Keeping.NEVER not in kept
        if Keeping.RELUCTANT in kept:
            left = [
                copy
                for copy in (*evicted, *self.copies)
                if copy in evicted or (copy.state is State.LOADED and not copy.in_use)
                if copy.young_until <= self.now and self.keeping(copy.model_id) is Keeping.FREE
            ]
            free_bytes = sum(copy.size_bytes for copy in set(left))
            assert free_bytes < sum(copy.size_bytes for copy in evicted)

    def carry_out(self, effects: tuple[Effect, ...]) -> None:
        if self.kept:
            self.nobody_goes_who_is_kept(effects)
        for effect in effects:
            model_id = effect.model_id
            copy = self.copies.get(model_id)
            match effect:
                case Load():
                    assert model_id not in self.loading, "one load at a time"
                    assert model_id not in self.unloading, "not before it is gone"
                    assert copy is not None
                    assert (copy.state, copy.size_bytes) == (State.LOADING, effect.size_bytes)
                    assert self.copies.ledger.free_bytes >= 0, "never over-committed by a load"
                    self.loading.add(model_id)
                    self.admitted.discard(model_id)
                case Unload():
                    assert model_id not in self.unloading, "told once"
                    assert copy is not None
                    assert (copy.state, copy.in_use) == (State.UNLOADING, 0)
                    if effect.why is Why.EVICTED:
                        assert copy.young_until <= self.now, "minimum residency"
                    self.unloading.add(model_id)
                case Refuse():
                    self.admitted.remove(model_id)

    # --- what the world does

    @rule(seconds=st.floats(0.01, 30))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def the_timer_rings(self) -> None:
        if self.copies.next_due() < inf:
            self.now = max(self.now, self.copies.next_due())
        self.carry_out(self.copies.due(self.now))

    @rule(
        model_id=MODELS,
        size=st.integers(1, 60),
        patience=st.none() | st.floats(0, 30),
        background=st.booleans(),
    )
    def admit(self, model_id: str, size: int, patience: float | None, background: bool) -> None:
        deadline = inf if patience is None else self.now + patience
        before = self.copies.state(model_id)
        told = self.copies.explain(
            model_id, size, self.now, deadline=deadline, background=background, most=3
        )
        decision = self.copies.admit(
            model_id, size, self.now, deadline=deadline, background=background
        )
        assert told.decision == decision, "explain and admit agree"
        assert told.state is before
        order = [self.keeping(each.model_id) for each in told.order if each.fate in IDLE]
        assert order == sorted(order), "what is free goes before what is kept"
        to_go = {each.model_id for each in told.order if each.fate is Fate.EVICT}
        unloads = {each.model_id for each in decision.effects if isinstance(each, Unload)}
        assert to_go == unloads
        if decision.verdict is Verdict.WAIT:
            self.admitted.add(model_id)
        elif decision.verdict is Verdict.REFUSE:
            assert decision.failure is not None
            assert not decision.effects
        self.carry_out(decision.effects)

    @rule(model_id=MODELS, size=SIZES)
    def a_model_comes_in_no_time(self, model_id: str, size: int) -> None:
        self.admit(model_id, size, None, False)
        if model_id in self.loading:
            self.loading.remove(model_id)
            self.carry_out(self.copies.loaded(model_id, size, 0.0, self.now))

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), size=SIZES, load_s=st.floats(0, 3))
    def a_load_ends(self, data: st.DataObject, size: int, load_s: float) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.loading)))
        self.loading.remove(model_id)
        self.carry_out(self.copies.loaded(model_id, size, load_s, self.now))

    @precondition(lambda self: self.loading)
    @rule(data=st.data())
    def a_load_fails(self, data: st.DataObject) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.loading)))
        self.loading.remove(model_id)
        self.carry_out(self.copies.load_failed(model_id, self.now))

    @precondition(lambda self: self.unloading)
    @rule(data=st.data())
    def an_unload_ends(self, data: st.DataObject) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.unloading)))
        self.unloading.remove(model_id)
        self.stuck.discard(model_id)  # after all
        self.carry_out(self.copies.unloaded(model_id, self.now))

    @precondition(lambda self: self.unloading - self.stuck)
    @rule(data=st.data())
    def an_unload_fails_for_good(self, data: st.DataObject) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.unloading - self.stuck)))
        self.stuck.add(model_id)
        self.carry_out(self.copies.unload_failed(model_id, self.now))
        assert model_id not in self.copies.waiting_ids()

    @precondition(lambda self: self.unloading - self.stuck - self.admitted)
    @rule(data=st.data())
    def an_unload_is_taken_back(self, data: st.DataObject) -> None:
        model_id = data.draw(st.sampled_from(sorted(self.unloading - self.stuck - self.admitted)))
        self.unloading.remove(model_id)
        self.copies.spared(model_id, self.now)
        assert self.copies.is_loaded(model_id)
        self.carry_out(self.copies.due(self.now))

    @rule(model_id=MODELS)
    def a_host_dies(self, model_id: str) -> None:
        self.loading.discard(model_id)
        self.stuck.discard(model_id)
        self.unloading.discard(model_id)
        self.carry_out(self.copies.lost(model_id, self.now))

    @rule(model_id=MODELS)
    def a_call_begins(self, model_id: str) -> None:
        copy = self.copies.acquire(model_id, self.now)
        assert (copy is not None) == self.copies.is_loaded(model_id)
        if copy is not None:
            self.calls.append(copy)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def a_call_ends(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.calls) - 1))
        self.carry_out(self.copies.release(self.calls.pop(index), self.now))

    @rule(model_id=MODELS)
    def a_copy_is_touched(self, model_id: str) -> None:
        self.copies.touch(model_id, self.now)

    @rule(model_id=MODELS, size=SIZES)
    def a_model_grows_or_shrinks(self, model_id: str, size: int) -> None:
        self.carry_out(self.copies.resized(model_id, size, self.now))

    @rule(model_id=MODELS, kept=st.sampled_from(Keeping), priority=st.integers(-20, 20))
    def an_operator_wishes(self, model_id: str, kept: Keeping, priority: int) -> None:
        if self.copies._residents.keeping is not None:
            self.kept[model_id] = kept
        self.copies.prioritise(model_id, priority)
        self.carry_out(self.copies.due(self.now))

    @rule(overhead=st.integers(0, 30))
    def overhead_changes(self, overhead: int) -> None:
        self.carry_out(self.copies.overhead(overhead, self.now))

    @rule(capacity=st.integers(31, 80))
    def capacity_changes(self, capacity: int) -> None:
        self.carry_out(self.copies.set_capacity(capacity, self.now))

    @rule(model_id=MODELS)
    def the_last_waiter_leaves(self, model_id: str) -> None:
        self.admitted.discard(model_id)
        self.carry_out(self.copies.withdraw(model_id, self.now))

    @rule(model_id=MODELS)
    def somebody_unloads(self, model_id: str) -> None:
        self.carry_out(self.copies.unload(model_id, self.now))

    @rule(model_id=MODELS)
    def it_is_unregistered(self, model_id: str) -> None:
        self.carry_out(self.copies.forget(model_id, self.now))

    # --- what always holds

    @invariant()
    def sums_are_right(self) -> None:
        ledger = self.copies.ledger
        held = dict.fromkeys(State, 0)
        count = dict.fromkeys(State, 0)
        for copy in self.copies:
            held[copy.state] += copy.size_bytes
            count[copy.state] += 1
        assert held[State.LOADING] == ledger.loading_bytes
        assert held[State.LOADED] == ledger.loaded_bytes
        assert held[State.UNLOADING] == ledger.unloading_bytes + ledger.stuck_bytes
        stuck = [copy.size_bytes for copy in self.copies if copy.stuck]
        assert (len(stuck), sum(stuck)) == (len(self.stuck), ledger.stuck_bytes)
        assert count == ledger.counts
        used = [copy for copy in self.copies if copy.state is State.LOADED and copy.in_use]
        assert ledger.in_use_bytes == sum(copy.size_bytes for copy in used)
        over = ledger.reserved_bytes + ledger.overhead_bytes - ledger.capacity_bytes
        assert ledger.debt_bytes == max(0, over)

    @invariant()
    def both_sides_know_the_same(self) -> None:
        by_state = {
            state: {copy.model_id for copy in self.copies if copy.state is state} for state in State
        }
        assert by_state[State.LOADING] == self.loading
        assert by_state[State.UNLOADING] >= self.unloading
        for model_id in by_state[State.UNLOADING] - self.unloading:
            copy = self.copies.get(model_id)
            assert copy is not None
            assert copy.in_use, "its unload follows its last call"
        assert set(self.copies.waiting_ids()) == self.admitted
        assert self.copies.waiting == len(self.admitted)

    @invariant()
    def calls_are_counted(self) -> None:
        for copy in self.copies:
            assert copy.in_use == sum(call is copy for call in self.calls)

    @invariant()
    def a_debt_has_no_idle_model_beside_it(self) -> None:
        ledger = self.copies.ledger
        if ledger.debt_bytes > ledger.unloading_bytes:
            assert ledger.loaded_bytes == ledger.in_use_bytes

    @invariant()
    def nothing_is_left_to_do(self) -> None:
        """Every event is worked off completely, except what time alone may have made possible."""
        if self.copies.next_due() > self.now:
            assert self.copies.due(self.now) == ()

    def teardown(self) -> None:
        """Once the world comes to rest, every admission has begun or was refused."""
        self.kept.clear()  # else they may wait for ever: the shell gives up after its time
        self.carry_out(self.copies.due(self.now))
        for _ in range(500):
            if self.calls:
                self.carry_out(self.copies.release(self.calls.pop(), self.now))
            elif self.unloading:
                self.carry_out(self.copies.unloaded(self.unloading.pop(), self.now))
            elif self.loading:
                model_id = self.loading.pop()
                self.carry_out(self.copies.loaded(model_id, 1, 0.5, self.now))
            elif self.copies.next_due() < inf:
                self.now = max(self.now, self.copies.next_due())
                self.carry_out(self.copies.due(self.now))
            else:
                break
        assert not self.admitted
        assert self.copies.waiting == 0
        assert self.copies.ledger.debt_bytes == 0


Shell.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestCopies = Shell.TestCase
