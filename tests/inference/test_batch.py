"""The batch on the built-in model, stepped by hand on a clock of our own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from inference.batch import Batch
from inference.demo import MODEL_PATH
from inference.engine_wire import Generate, Produced, Report
from inference.llama_process import joined
from inference.native import Context, Model, start
from inference.pace import Pace
from p2p.content import Sampling

SLOTS, CHUNK = 3, 32
WILD = Sampling(temperature=2.0, seed=1)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    start()
    yield Model(MODEL_PATH)


def batch(model: Model, rate: float | None = None) -> Batch:
    context = Context(model, slots=SLOTS, context_tokens=512, step_tokens=CHUNK, threads=1, exact=True)
    return Batch(model, context, Pace(rate, 0.0), slots=SLOTS, chunk=CHUNK)


def story(model: Model, request: int, *, max_tokens: int = 400) -> Generate:
    prompt = tuple(model.encode("Once upon a time " * 9, special=False))
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
