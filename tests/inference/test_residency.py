"""Which models are in memory: by example, and as a machine that hypothesis drives."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from inference.residency import (
    FIRST_PAUSE_S,
    MAX_WAITING,
    ROOM_WAIT_S,
    Admit,
    Ask,
    Begin,
    Effect,
    Failed,
    Gone,
    Leave,
    Load,
    Loaded,
    Refuse,
    Residency,
    Tick,
    Unload,
)
from p2p.errors import CAPACITY, ENGINE_FAILED, MODEL_NOT_FOUND


def two_for_one() -> Residency:
    """a is resident, and there is no room beside it."""
    residency = Residency({"a": 6, "b": 6}, 10)
    assert residency.step(Begin(), 0) == [Load("a")]
    assert residency.step(Loaded("a"), 1) == []
    return residency


def refusals(effects: list[Effect]) -> list[tuple[int, str, bool]]:
    return [
        (one.ticket, one.error.code.name, one.error.retry_after_s is not None)
        for one in effects
        if isinstance(one, Refuse)
    ]


def test_the_start_loads_one_after_the_other_what_there_is_room_for() -> None:
    residency = Residency({"a": 6, "b": 6, "c": 4, "elsewhere": 0}, 10)
    assert residency.step(Begin(), 0) == [Load("a")]
    assert not residency.begun
    assert residency.step(Loaded("a"), 1) == [Load("c")]
    assert residency.step(Loaded("c"), 2) == [Load("elsewhere")]
    assert residency.step(Loaded("elsewhere"), 3) == []
    assert residency.begun and residency.state("b") == "absent"


def test_the_first_model_is_loaded_even_if_it_is_larger_than_the_budget() -> None:
    residency = Residency({"a": 60, "b": 6}, 10)
    assert residency.step(Begin(), 0) == [Load("a")]
    assert residency.step(Loaded("a"), 1) == []


def test_a_model_in_memory_is_given_at_once() -> None:
    residency = two_for_one()
    assert residency.step(Ask(1, "a"), 2) == [Admit(1)]


def test_one_that_nobody_uses_makes_room_and_everybody_who_waits_gets_the_other() -> None:
    residency = two_for_one()
    assert residency.step(Ask(1, "b"), 2) == [Unload("a")]
    assert residency.step(Ask(2, "b"), 3) == []
    assert residency.step(Gone("a"), 4) == [Load("b")]
    assert residency.step(Loaded("b"), 9) == [Admit(1), Admit(2)]


def test_one_in_use_stays_and_takes_new_users_until_it_has_stayed_as_long_as_its_load_took() -> None:
    residency = two_for_one()
    assert residency.step(Ask(1, "a"), 1) == [Admit(1)]
    assert residency.step(Ask(2, "b"), 1.5) == []
    assert residency.step(Ask(3, "a"), 1.9) == [Admit(3)]
    assert residency.step(Ask(4, "a"), 2) == []
    assert residency.step(Leave(1), 3) == []
    assert residency.step(Leave(3), 4) == [Unload("a")]
    assert residency.step(Gone("a"), 5) == [Load("b")]
    assert residency.step(Loaded("b"), 6) == [Admit(2)]
    assert residency.step(Leave(2), 7) == [Unload("b")]
    assert residency.step(Gone("b"), 8) == [Load("a")]
    assert residency.step(Loaded("a"), 9) == [Admit(4)]


def test_who_waited_for_a_turn_goes_on_when_the_one_before_him_gives_up() -> None:
    residency = two_for_one()
    residency.step(Ask(1, "a"), 2)
    assert residency.step(Ask(2, "b"), 3) == []
    assert residency.step(Ask(3, "a"), 4) == []
    assert residency.step(Leave(2), 5) == [Admit(3)]


def test_a_wait_for_room_has_an_end_and_says_when_to_come_again() -> None:
    residency = two_for_one()
    residency.step(Ask(1, "a"), 2)
    residency.step(Ask(2, "b"), 3)
    due = residency.next_s(3)
    assert due is not None and 3 < due <= 3 + ROOM_WAIT_S
    assert refusals(residency.step(Tick(), 3 + ROOM_WAIT_S)) == [(2, CAPACITY.name, True)]
    assert residency.waiting == 0


def test_a_load_that_has_begun_is_waited_for() -> None:
    residency = Residency({"a": 1}, 10)
    assert residency.step(Ask(1, "a"), 0) == [Load("a")]
    assert residency.step(Tick(), 10 * ROOM_WAIT_S) == []
    assert residency.step(Loaded("a"), 11 * ROOM_WAIT_S) == [Admit(1)]


def test_no_more_than_a_bound_wait() -> None:
    residency = two_for_one()
    residency.step(Ask(0, "a"), 2)
    for ticket in range(1, MAX_WAITING + 1):
        assert residency.step(Ask(ticket, "b"), 3) == []
    assert residency.refusal("b", 3) is not None and residency.refusal("a", 3) is None
    assert refusals(residency.step(Ask(999, "b"), 3)) == [(999, CAPACITY.name, True)]


def test_a_load_that_fails_is_told_to_all_and_not_tried_again_at_once() -> None:
    residency = Residency({"a": 1}, 10)
    residency.step(Ask(1, "a"), 0)
    residency.step(Ask(2, "a"), 0)
    failed = refusals(residency.step(Failed("a"), 1))
    assert failed == [(1, ENGINE_FAILED.name, True), (2, ENGINE_FAILED.name, True)]
    assert refusals(residency.step(Ask(3, "a"), 1.5)) == [(3, ENGINE_FAILED.name, True)]
    assert residency.step(Ask(4, "a"), 1 + FIRST_PAUSE_S) == [Load("a")]


def test_a_model_that_will_never_load_is_served_no_more() -> None:
    residency = Residency({"a": 1}, 10)
    residency.step(Ask(1, "a"), 0)
    residency.step(Failed("a", for_good=True), 1)
    assert not residency.serves("a")
    assert refusals(residency.step(Ask(2, "a"), 100)) == [(2, MODEL_NOT_FOUND.name, False)]


def test_those_used_longest_ago_go_and_none_that_need_not() -> None:
    residency = Residency({"small": 1, "large": 8, "other": 1, "new": 8}, 10)
    residency.step(Begin(), 0)
    for step, name in enumerate(("small", "large", "other"), 1):
        residency.step(Loaded(name), step)
    for ticket, name in enumerate(("small", "large", "other")):
        residency.step(Ask(ticket, name), 10 + ticket)
        residency.step(Leave(ticket), 10 + ticket)
    assert residency.step(Ask(9, "new"), 20) == [Unload("large")]


def test_what_computes_elsewhere_needs_no_room_and_no_turn() -> None:
    residency = Residency({"a": 6, "b": 6, "elsewhere": 0}, 10)
    residency.step(Ask(1, "a"), 0)
    residency.step(Loaded("a"), 0)
    assert residency.step(Ask(2, "b"), 1) == []
    assert residency.step(Ask(3, "elsewhere"), 2) == [Load("elsewhere")]
    assert residency.step(Loaded("elsewhere"), 2) == [Admit(3)]


class Town(RuleBasedStateMachine):
    """Clients come and go, loads and unloads end in any order, and time passes."""

    @initialize(
        needs=st.lists(st.integers(0, 12), min_size=1, max_size=4),
        budget=st.integers(1, 20),
        start=st.booleans(),
    )
    def open(self, needs: list[int], budget: int, start: bool) -> None:
        self.needs = {str(number): need for number, need in enumerate(needs)}
        self.budget, self.now, self.tickets = budget, 0.0, 0
        self.residency = Residency(self.needs, budget)
        self.loading: set[str] = set()
        self.leaving: set[str] = set()
        self.asked: dict[int, tuple[str, float]] = {}
        self.using: dict[int, str] = {}
        self.withdrawn: set[str] = set()
        if start:
            self._do(self.residency.step(Begin(), self.now))

    def _do(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Load(model):
                    assert model not in self.loading | self.leaving | self.withdrawn
                    self.loading.add(model)
                case Unload(model):
                    assert model not in self.using.values(), "unloaded under a user"
                    self.leaving.add(model)
                case Admit(ticket):
                    model, _ = self.asked.pop(ticket)
                    assert self.residency.state(model) == "resident"
                    self.using[ticket] = model
                case Refuse(ticket, error):
                    self.asked.pop(ticket)
                    assert (error.retry_after_s or 0) > 0 or error.code is MODEL_NOT_FOUND

    @rule(pick=st.integers(0, 3))
    def ask(self, pick: int) -> None:
        model = list(self.needs)[pick % len(self.needs)]
        self.tickets += 1
        self.asked[self.tickets] = model, self.now
        self._do(self.residency.step(Ask(self.tickets, model), self.now))

    @precondition(lambda self: self.asked or self.using)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted([*self.asked, *self.using])))
        self.asked.pop(ticket, None)
        self.using.pop(ticket, None)
        self._do(self.residency.step(Leave(ticket), self.now))

    @precondition(lambda self: self.loading)
    @rule(data=st.data(), outcome=st.sampled_from(["loaded", "loaded", "failed", "for good"]))
    def end_load(self, data: st.DataObject, outcome: str) -> None:
        model = data.draw(st.sampled_from(sorted(self.loading)))
        self.loading.remove(model)
        if outcome == "loaded":
            self._do(self.residency.step(Loaded(model), self.now))
            return
        if outcome == "for good":
            self.withdrawn.add(model)
        self._do(self.residency.step(Failed(model, outcome == "for good"), self.now))
        assert all(asked != model for asked, _ in self.asked.values())

    @precondition(lambda self: self.leaving)
    @rule(data=st.data())
    def end_unload(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from(sorted(self.leaving)))
        self.leaving.remove(model)
        self._do(self.residency.step(Gone(model), self.now))

    @rule(seconds=st.sampled_from([0.1, 1.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        """As the shell does: it wakes at `next_s`, and no later."""
        until = self.now + seconds
        while (due := self.residency.next_s(self.now)) is not None and due <= until:
            assert due > self.now
            self.now = due
            self._do(self.residency.step(Tick(), self.now))
        self.now = until
        self._do(self.residency.step(Tick(), self.now))

    @invariant()
    def memory_is_within_the_budget_or_one_models_alone(self) -> None:
        there = [self.needs[name] for name in self.needs if self.residency.state(name) != "absent"]
        assert sum(there) <= self.budget or sum(need > 0 for need in there) == 1

    @invariant()
    def waits_are_bounded_in_number_and_time(self) -> None:
        assert len(self.asked) == self.residency.waiting <= MAX_WAITING
        for model, since in self.asked.values():
            assert self.residency.state(model) == "loading" or self.now < since + ROOM_WAIT_S + 1e-6

    def teardown(self) -> None:
        """Once users leave and loads end, nobody is left waiting."""
        for _ in range(50):
            for model in sorted(self.loading):
                self.loading.remove(model)
                self._do(self.residency.step(Loaded(model), self.now))
            for model in sorted(self.leaving):
                self.leaving.remove(model)
                self._do(self.residency.step(Gone(model), self.now))
            for ticket in sorted(self.using):
                del self.using[ticket]
                self._do(self.residency.step(Leave(ticket), self.now))
        assert not self.asked


def test_whatever_happens_memory_and_waits_stay_bounded_and_everybody_gets_his_turn() -> None:
    short = settings(max_examples=60, stateful_step_count=40, deadline=None)
    run_state_machine_as_test(Town, settings=short)
