"""Token buckets: what is honest passes, what never stops does not, and nobody pays for another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import CAPACITY, TetherError
from p2p.identity import PeerId
from topics import tempo as tempo_module
from topics.tempo import Tempo

ALICE, BOB = PeerId("alice"), PeerId("bob")


def passes(tempo: Tempo, peer: PeerId, now: float) -> bool:
    try:
        tempo.take(peer, now)
    except TetherError as refused:
        assert refused.code is CAPACITY
        assert refused.retry_after_s is not None and refused.retry_after_s > 0
        return False
    return True


def test_a_burst_passes_and_then_the_rate() -> None:
    tempo = Tempo(2.0, 5)
    assert [passes(tempo, ALICE, 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert passes(tempo, BOB, 0.0)
    assert [passes(tempo, ALICE, 0.5) for _ in range(2)] == [True, False]
    assert sum(passes(tempo, ALICE, 100.0) for _ in range(9)) == 5


def test_who_waits_as_long_as_it_is_told_passes() -> None:
    tempo = Tempo(3.0, 1)
    tempo.take(ALICE, 0.0)
    with pytest.raises(TetherError) as refused:
        tempo.take(ALICE, 0.1)
    assert refused.value.retry_after_s is not None
    tempo.take(ALICE, 0.1 + refused.value.retry_after_s + 1e-9)


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=200), st.floats(0.1, 20), st.integers(1, 30))
def test_no_more_passes_than_the_burst_and_the_rate_allow(gaps: list[float], rate: float, burst: int) -> None:
    tempo, now, passed = Tempo(rate, burst), 0.0, 0
    for gap in gaps:
        now += gap
        passed += passes(tempo, ALICE, now)
    assert passed <= burst + now * rate + 1e-6


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempo_module, "MAX_PEERS", 3)
    tempo = Tempo(1.0, 1)
    for number in range(10):
        tempo.take(PeerId(str(number)), 0.0)
    assert len(tempo._buckets) == 3
