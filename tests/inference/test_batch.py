"""The batch on the built-in model, stepped by hand on a clock of our own."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import llama_cpp
import pytest
from msgspec.structs import replace

from inference.batch import Batch
from inference.demo import MODEL_PATH
from inference.engine_wire import Generate, Produced, Report
from inference.native import Context, Model, start
from inference.outgoing import joined
from inference.pace import Pace
from inference.self_test import is_exact
from p2p.content import Sampling

SLOTS, CHUNK = 3, 32
WILD = Sampling(temperature=2.0, seed=1)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    start()
    yield Model(MODEL_PATH)


def batch(model: Model, rate: float | None = None) -> Batch:
    context = Context(model, slots=SLOTS, context_tokens=512, step_tokens=256, threads=1)
    return Batch(model, context, Pace(rate, 0.0), slots=SLOTS, chunk=256)


def story(model: Model, request: int, *, max_tokens: int = 400, times: int = 9) -> Generate:
    prompt = tuple(model.encode("Once upon a time " * times, special=False))
    return Generate(request, prompt, (), max_tokens, WILD)


def submit(made: Batch, *asked: Generate) -> None:
    for one in asked:
        assert list(made.submit(one)) == []


def test_over_ten_seconds_the_owners_limit_is_kept_by_all_requests_together(model: Model) -> None:
    made = batch(model, rate=20.0)
    submit(made, *(story(model, request) for request in range(SLOTS)))
    now, sampled = 0.0, Counter[int]()
    while now < 10.0:
        for produced in list(made.step(now)):
            sampled[produced.request] += 1
            if produced.finish is not None:
                submit(made, story(model, produced.request))
        now += max(made.wait_s(), 0.001)
    assert 199 <= sampled.total() <= 201
    assert max(sampled.values()) - min(sampled.values()) <= 1


def test_a_request_that_leaves_makes_room_for_one_that_waits(model: Model) -> None:
    made = batch(model)
    submit(made, *(story(model, request) for request in range(SLOTS + 1)))
    began: set[int] = set()
    while 0 not in began:
        began |= {produced.request for produced in made.step(0.0)}
    assert SLOTS not in began
    made.leave(0)
    after: set[int] = set()
    while SLOTS not in after:
        after |= {produced.request for produced in made.step(1.0)}
    assert 0 not in after


def interrupting(made: Batch, monkeypatch: pytest.MonkeyPatch, request: int) -> None:
    """Let a request be given up once a decode with prompts is under way, as the reader's thread does."""
    decode = llama_cpp.llama_decode

    def interrupted(context: object, rows: object) -> int:
        made.give_up(request)
        status: int = decode(context, rows)
        return status

    monkeypatch.setattr("llama_cpp.llama_decode", interrupted)


def test_a_prompt_that_is_given_up_while_it_comes_in_costs_no_more_of_its_step(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = batch(model)
    submit(made, story(model, 1, times=30))
    with monkeypatch.context() as patched:
        interrupting(made, patched, 1)
        assert made.step(0.0) == []
    made.leave(1)
    assert made.idle
    asked = story(model, 2, max_tokens=8)
    assert ids_of(made, asked) == ids_of(batch(model), asked)


def test_a_prompt_that_is_given_up_while_others_decode_is_not_begun_with(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = batch(model)
    submit(made, story(model, 1, max_tokens=20))
    while not made.step(0.0):
        pass
    submit(made, story(model, 2, times=30))
    with monkeypatch.context() as patched:
        interrupting(made, patched, 2)
        decoded = Counter[str]()
        decode = llama_cpp.llama_decode

        def counted(context: object, rows: object) -> int:
            decoded["steps"] += 1
            status: int = decode(context, rows)
            return status

        patched.setattr("llama_cpp.llama_decode", counted)
        assert [produced.request for produced in made.step(0.0)] == [1]
    assert decoded["steps"] == 1
    made.leave(2)
    asked = story(model, 3, max_tokens=8)
    assert ids_of(made, asked) == ids_of(batch(model), asked)


def test_a_step_that_was_given_up_by_mistake_is_done_again(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = story(model, 1, max_tokens=8, times=30)
    made = batch(model, rate=1_000.0)
    submit(made, asked)
    with monkeypatch.context() as patched:
        interrupting(made, patched, 1)
        for _ in range(3):
            assert made.step(0.0) == []
    produced = []
    for now in range(100):
        produced += made.step(float(now))
    assert tuple(token for one in produced for token in one.ids) == ids_of(batch(model), asked)[0]


def test_a_prompt_in_company_is_not_given_up(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    made = batch(model)
    submit(made, story(model, 1), story(model, 2))
    with monkeypatch.context() as patched:
        interrupting(made, patched, 1)
        began = {one.request for one in made.step(0.0)}
    for _ in range(3):
        began |= {one.request for one in made.step(0.0)}
    assert began == {1, 2}


def test_an_empty_batch_is_idle_and_a_step_does_nothing(model: Model) -> None:
    made = batch(model)
    assert list(made.step(0.0)) == []
    submit(made, story(model, 1, max_tokens=2))
    ends = []
    while not made.idle:
        ends += [produced.finish for produced in made.step(0.0)]
    assert ends == [None, "length"]


def test_tokens_that_wait_for_the_pipe_leave_as_one() -> None:
    reports: list[Report] = [
        Produced(1, (10,), 0, "a"),
        Produced(2, (20,), 5, "x"),
        Produced(1, (11,), 1, "b"),
        Produced(1, (), 2, "c", "stop"),
    ]
    assert joined(reports) == [Produced(1, (10, 11), 0, "abc", "stop"), Produced(2, (20,), 5, "x")]


def ids_of(made: Batch, asked: Generate) -> tuple[tuple[int, ...], int]:
    """The whole answer, and how much of the prompt was not computed for it."""
    produced = [*made.submit(asked)]
    while not made.idle:
        produced += made.step(0.0)
    mine = [one for one in produced if one.request == asked.request]
    return tuple(token for one in mine for token in one.ids), mine[-1].cached


def test_a_prompt_in_the_cache_is_not_computed_again_and_answered_the_same(model: Model) -> None:
    made = batch(model)
    first = replace(story(model, 1, max_tokens=40), scope=b"tenant")
    answer, cached = ids_of(made, first)
    assert cached == 0
    assert ids_of(made, replace(first, request=2)) == (answer, (len(first.prompt) - 1) // CHUNK * CHUNK)
    assert ids_of(made, replace(first, request=3, scope=b"another")) == (answer, 0)
    assert ids_of(made, replace(first, request=4, scope=b"")) == (answer, 0)
    assert ids_of(batch(model), first) == (answer, 0)


def test_many_that_begin_alike_and_come_together_compute_their_beginning_once(model: Model) -> None:
    made = batch(model)
    asked = [
        replace(story(model, number, max_tokens=6, times=30), scope=b"tenant") for number in range(SLOTS)
    ]
    submit(made, *asked)
    cached: dict[int, int] = {}
    while not made.idle:
        cached |= {one.request: one.cached for one in made.step(0.0) if one.finish is not None}
    assert cached == {0: 0, **{number: (len(asked[0].prompt) - 1) // CHUNK * CHUNK for number in (1, 2)}}


def test_the_next_turn_of_a_conversation_begins_where_the_last_answer_ended(model: Model) -> None:
    made = batch(model)
    first = replace(story(model, 1, max_tokens=50, times=19), scope=b"tenant")
    answer, _ = ids_of(made, first)
    second = replace(first, request=2, prompt=(*first.prompt, *answer, *first.prompt[:20]))
    expected, _ = ids_of(batch(model), second)
    again, cached = ids_of(made, second)
    assert again == expected
    assert cached == (len(first.prompt) + len(answer) - 1) // CHUNK * CHUNK > len(first.prompt)


def test_an_exact_answer_is_the_same_beside_fast_ones_and_after_them(model: Model) -> None:
    asked = replace(story(model, 1, max_tokens=30), scope=b"tenant")
    alone, _ = ids_of(batch(model), asked)
    made = batch(model)
    ids_of(made, replace(asked, request=2, exact=False))
    submit(made, replace(asked, request=3, exact=False))
    assert ids_of(made, asked) == (alone, 0)


def test_the_demo_model_passes_the_self_test_and_drawing_without_a_seed_fails_it(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = Context(model, slots=SLOTS, context_tokens=512, step_tokens=256, threads=1)

    def fresh() -> Batch:
        return Batch(model, context, Pace(None, 0.0), slots=SLOTS, chunk=CHUNK)

    assert is_exact(model, fresh, seed=1)
    drawn = itertools.count()
    monkeypatch.setattr("inference.sampler.position_seed", lambda _seed, _position: next(drawn))
    assert not is_exact(model, fresh, seed=1)
