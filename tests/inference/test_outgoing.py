"""When the reports of the engine process leave: tokens in parcels, everything else at once."""

from __future__ import annotations

import math
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from inference.engine_wire import Alive, Produced, Report, Tokenized
from inference.outgoing import PARCEL_S, Outgoing, joined


def token(request: int, position: int, finish: Literal["stop"] | None = None) -> Produced:
    return Produced(request, (position,), position, "x", finish)


def test_an_answers_first_token_leaves_at_once_and_the_next_ones_together() -> None:
    outgoing = Outgoing()
    assert outgoing.due_s == math.inf
    outgoing.add(token(1, 0))
    assert outgoing.due_s == -math.inf
    assert outgoing.take(100.0) == [token(1, 0)]
    assert outgoing.due_s == math.inf
    outgoing.add(token(1, 1))
    outgoing.add(token(1, 2))
    assert outgoing.due_s == 100.0 + PARCEL_S
    assert outgoing.take(outgoing.due_s) == [Produced(1, (1, 2), 1, "xx")]


def test_an_end_another_answers_first_token_and_any_word_take_all_along() -> None:
    for urgent in (token(1, 2, "stop"), token(2, 0), Tokenized(3, (1, 2)), Alive()):
        outgoing = Outgoing()
        outgoing.add(token(1, 0))
        outgoing.take(100.0)
        outgoing.add(token(1, 1))
        outgoing.add(urgent)
        assert outgoing.due_s == -math.inf
        left = outgoing.take(100.001)
        assert left == joined([token(1, 1), urgent])


def test_tokens_of_a_slow_model_are_not_held_up() -> None:
    outgoing = Outgoing()
    for position in range(5):
        outgoing.add(token(1, position))
        assert outgoing.due_s <= position * PARCEL_S
        assert outgoing.take(position * PARCEL_S) == [token(1, position)]


def test_many_answers_share_what_parcels_there_are() -> None:
    outgoing = Outgoing(parcels_per_s=200.0)
    for request in range(16):
        outgoing.add(token(request, 0))
    assert len(outgoing.take(100.0)) == 16
    for request in range(16):
        outgoing.add(token(request, 1))
    assert outgoing.due_s == 100.0 + 16 / 200.0
    outgoing.add(token(3, 2, "stop"))
    assert len(outgoing.take(100.05)) == 16


SAID = st.tuples(st.floats(0, 3 * PARCEL_S), st.integers(1, 3), st.sampled_from(["token", "stop", "alive"]))


@given(st.lists(SAID, max_size=60))
def test_nothing_is_lost_or_late_however_reports_come(said: list[tuple[float, int, str]]) -> None:
    outgoing, now_s = Outgoing(), 0.0
    added: list[Report] = []
    left: list[Report] = []
    positions = dict.fromkeys((1, 2, 3), 0)
    for pause_s, request, what in said:
        if outgoing.due_s <= now_s + pause_s:
            left += outgoing.take(max(now_s, outgoing.due_s))
        now_s += pause_s
        report: Report = Alive()
        if what != "alive":
            report = token(request, positions[request], "stop" if what == "stop" else None)
            positions[request] += 1
        added.append(report)
        outgoing.add(report)
        assert outgoing.due_s <= now_s + PARCEL_S
    left += outgoing.take(now_s)
    for request, count in positions.items():
        sent = [one for one in left if isinstance(one, Produced) and one.request == request]
        assert [position for one in sent for position in one.ids] == list(range(count))
    assert left.count(Alive()) == added.count(Alive())
