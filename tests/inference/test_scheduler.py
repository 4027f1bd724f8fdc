"""The scheduler against a model of what it promises: everybody's turn comes, slots are neither shared nor lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inference.scheduler import Scheduler, Step, Work

CHUNK = 8
SLOTS = 3


def works(step: Step) -> list[Work]:
    return [*step.decode, *step.prefill]


@pytest.mark.parametrize(
    ("tokens", "chunks"),
    [
        (1, [(0, 1)]),
        (8, [(0, 8)]),
        (9, [(0, 8), (8, 1)]),
        (20, [(0, 8), (8, 8), (16, 4)]),
    ],
)
def test_a_prompt_goes_in_by_chunks_that_end_at_multiples_of_their_size(
    tokens: int, chunks: list[tuple[int, int]]
) -> None:
    scheduler = Scheduler(SLOTS, CHUNK)
    scheduler.submit(1, tokens)
    seen = [work for _ in chunks for work in works(scheduler.plan(10))]
    assert [(work.start, work.count) for work in seen] == chunks
    assert [work.samples for work in seen] == [False] * (len(chunks) - 1) + [True]


def test_a_long_prompt_delays_the_others_by_one_chunk_at_a_time() -> None:
    scheduler = Scheduler(SLOTS, CHUNK)
    scheduler.submit(1, 1)
    scheduler.plan(10)
    scheduler.submit(2, 10 * CHUNK)
    for _ in range(9):
        step = scheduler.plan(10)
        assert [work.request for work in step.decode] == [1]
        assert [work.count for work in step.prefill] == [CHUNK]


def test_many_short_prompts_go_in_together_as_far_as_a_chunk_has_room() -> None:
    scheduler = Scheduler(SLOTS, CHUNK)
    for request in range(SLOTS):
        scheduler.submit(request, CHUNK // 2)
    assert [(work.slot, work.count) for work in scheduler.plan(10).prefill] == [(0, 4), (1, 4)]
    step = scheduler.plan(10)
    assert [work.slot for work in step.decode] == [0, 1] and [work.slot for work in step.prefill] == [2]


def test_where_nobody_decodes_more_prompts_go_in_together() -> None:
    scheduler = Scheduler(SLOTS, CHUNK, together=3 * CHUNK)
    for request in range(SLOTS):
        scheduler.submit(request, 2 * CHUNK)
    assert [work.count for work in scheduler.plan(10).prefill] == [CHUNK] * SLOTS
    scheduler.plan(10)
    scheduler.leave(0)
    scheduler.submit(SLOTS, 2 * CHUNK)
    scheduler.leave(1)
    scheduler.submit(SLOTS + 1, 2 * CHUNK)
    assert [work.count for work in scheduler.plan(10).prefill] == [CHUNK]


def test_what_was_planned_and_not_done_is_due_again() -> None:
    scheduler = Scheduler(SLOTS, CHUNK)
    scheduler.submit(1, 2 * CHUNK)
    scheduler.plan(10)
    step = scheduler.plan(10)
    assert step.samples == 1
    scheduler.undo(step.prefill)
    assert scheduler.plan(10) == step


@given(
    arrivals=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12 * CHUNK)), min_size=1, max_size=20),
    allowance=st.integers(1, SLOTS),
    answer=st.integers(1, 30),
)
def test_nobody_starves_however_many_prompts_come_and_however_long_they_are(
    arrivals: list[tuple[int, int]], allowance: int, answer: int
) -> None:
    """Each is done by the time that all before it would take one after the other, and holds a slot no longer."""
    scheduler = Scheduler(SLOTS, CHUNK, together=2 * CHUNK)
    due = sorted((step, number, tokens) for number, (step, tokens) in enumerate(arrivals))
    left: dict[int, int] = {}
    work_ahead, bounds = 0, dict[int, int]()
    for now in range(20_000):
        while due and due[0][0] <= now:
            _, number, tokens = due.pop(0)
            scheduler.submit(number, tokens)
            left[number] = answer
            work_ahead = max(work_ahead, now) + tokens // CHUNK + 1 + answer * SLOTS
            bounds[number] = work_ahead
        for work in works(scheduler.plan(allowance)):
            left[work.request] -= work.samples
            if not left[work.request]:
                assert now <= bounds[work.request]
                del left[work.request]
                scheduler.leave(work.request)
        if not due and not left:
            break
    assert scheduler.idle


def test_a_prompt_with_a_larger_chunk_than_a_step_has_still_goes_in() -> None:
    scheduler = Scheduler(SLOTS, CHUNK)
    scheduler.submit(1, 3 * CHUNK, 2 * CHUNK)
    assert [work.count for _ in range(2) for work in scheduler.plan(10).prefill] == [2 * CHUNK, CHUNK]


def test_the_decoding_slots_come_in_order_because_neighbours_run_together() -> None:
    scheduler = Scheduler(SLOTS, CHUNK)
    for request in range(SLOTS):
        scheduler.submit(request, 1)
    scheduler.plan(1)
    assert [work.slot for work in scheduler.plan(10).decode] == [0, 1, 2]


def test_requests_take_turns_where_the_allowance_is_too_small_for_all() -> None:
    scheduler = Scheduler(SLOTS, CHUNK)
    for request in range(SLOTS):
        scheduler.submit(request, 1)
    drawn = Counter(work.request for _ in range(30) for work in works(scheduler.plan(1)))
    assert set(drawn.values()) == {10}


def test_without_allowance_prompts_still_go_in_and_nothing_is_sampled() -> None:
    scheduler = Scheduler(SLOTS, CHUNK)
    scheduler.submit(1, 2 * CHUNK)
    assert scheduler.plan(0).prefill == (Work(1, 0, 0, CHUNK, samples=False),)
    assert scheduler.plan(0) == Step(())
    assert scheduler.plan(1).samples == 1


def test_who_came_first_is_served_first() -> None:
    scheduler = Scheduler(1, CHUNK)
    for request in (5, 3, 4):
        scheduler.submit(request, 1)
    order = []
    while not scheduler.idle:
        (work,) = works(scheduler.plan(1))
        order.append(work.request)
        scheduler.leave(work.request)
    assert order == [5, 3, 4]


@given(prompts=st.lists(st.integers(1, 60), min_size=1, max_size=12), company=st.integers(0, 5))
def test_the_borders_of_a_prompt_do_not_depend_on_the_company(prompts: list[int], company: int) -> None:
    def borders(others: list[int]) -> list[tuple[int, int]]:
        scheduler = Scheduler(4, CHUNK)
        for index, tokens in enumerate(others):
            scheduler.submit(100 + index, tokens)
        scheduler.submit(0, prompts[0])
        seen: list[tuple[int, int]] = []
        for _ in range(2_000):
            for work in works(scheduler.plan(2)):
                if work.request == 0:
                    seen.append((work.start, work.count))
                    if work.samples:
                        return seen
                elif work.samples:
                    scheduler.leave(work.request)
        raise AssertionError("the request starved")

    assert borders([]) == borders(prompts[1:] + [30] * company)


class Serving(RuleBasedStateMachine):
    """Requests come, go and are cancelled in any order; each wants a number of tokens, some begin with what is there.

    It is the scheduler's memory, too: it gives any free slot, and says of each how much it holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(SLOTS, CHUNK, self)
        self.held: dict[int, int] = {}
        self.wanted: dict[int, int] = {}
        self.prompts: dict[int, int] = {}
        self.first: dict[int, int] = {}
        self.in_slot: dict[int, int] = {}
        self.next_request = 0

    def choose(self, request: int, free: Sequence[int]) -> int:
        assert request in self.wanted
        return free[request % len(free)]

    def waits(self, request: int, slot: int) -> bool:
        """On the request before it, while that one's prompt comes in."""
        assert request not in self.in_slot
        before = self.first.get(request - 1, 0)
        return request % 2 == 1 and self.in_slot.get(request - 1, before) < before

    def begin(self, request: int, slot: int) -> int:
        assert request not in self.in_slot, "it began twice"
        self.in_slot[request] = self.held[request]
        return self.held[request]

    @rule(tokens=st.integers(1, 3 * CHUNK), wanted=st.integers(1, 5), held=st.integers(0, 3))
    def submit(self, tokens: int, wanted: int, held: int) -> None:
        self.held[self.next_request] = min(held * CHUNK, (tokens - 1) // CHUNK * CHUNK)
        self.scheduler.submit(self.next_request, tokens)
        self.wanted[self.next_request] = wanted
        self.prompts[self.next_request] = self.first[self.next_request] = tokens
        self.next_request += 1

    @rule(choice=st.integers(0, 10))
    def cancel(self, choice: int) -> None:
        if self.wanted:
            self.leave(sorted(self.wanted)[choice % len(self.wanted)])

    @rule(allowance=st.integers(0, 4))
    def step(self, allowance: int) -> None:
        step = self.scheduler.plan(allowance)
        assert step.samples <= allowance
        slots = [work.slot for work in works(step)]
        assert len(slots) == len(set(slots))
        for work in works(step):
            assert self.in_slot[work.request] == work.start
            self.in_slot[work.request] += work.count
            if work.samples:
                assert self.in_slot[work.request] == self.prompts[work.request]
                self.prompts[work.request] += 1
                self.wanted[work.request] -= 1
                if not self.wanted[work.request]:
                    self.leave(work.request)

    def leave(self, request: int) -> None:
        self.scheduler.leave(request)
        del self.wanted[request], self.prompts[request]
        self.in_slot.pop(request, None)

    @invariant()
    def no_request_is_lost(self) -> None:
        assert self.scheduler.waiting + self.scheduler.running == len(self.wanted)
        assert self.scheduler.running <= SLOTS

    def teardown(self) -> None:
        for _ in range(10_000):
            if self.scheduler.idle:
                break
            self.step(SLOTS)
        assert self.scheduler.idle and not self.wanted
        free = [self.scheduler.leave(request) for request in range(self.next_request)]
        assert free == [None] * self.next_request
        self.in_slot.clear()
        self.first.clear()
        for request in range(SLOTS):
            self.wanted[request] = self.held[request] = 0
            self.scheduler.submit(request, 1)
        assert [work.slot for work in self.scheduler.plan(SLOTS).decode] == list(range(SLOTS))


TestServing = Serving.TestCase
