"""What kills several workers is refused for a while, and nothing else is."""

from __future__ import annotations

from p2p.identity import PeerId
from tests.tetherd.dead_letters.test_letters import letter
from tetherd.dead_letters import quarantine as module
from tetherd.dead_letters.letter import Letter, Try
from tetherd.dead_letters.quarantine import HELD_S, Quarantine

INPUT = b"i" * 16


def dead(number: int, *tries: tuple[str, str], ended: float = 100.0, input: bytes = INPUT) -> Letter:
    made = tuple(Try(PeerId(worker), rank, cause) for rank, (worker, cause) in enumerate(tries, 1))
    plain = letter(number, ended)
    return Letter(
        plain.job, "acme", "demo", plain.gateway, "WORKER_LOST", 1.0, ended, tries=made, input=input
    )


def test_an_input_that_several_workers_died_of_is_refused_until_it_is_ten_minutes_old() -> None:
    one = Quarantine()
    assert one.learn(dead(1, ("A", "CALL_LOST"), ("B", "ENGINE_FAILED"), ("C", "CALL_LOST")))
    assert one.wait_s(INPUT, 100.0) == HELD_S
    assert one.wait_s(b"o" * 16, 100.0) is None
    assert one.held(100.0 + HELD_S - 1) == 1
    assert one.wait_s(INPUT, 100.0 + HELD_S) is None
    assert one.held(100.0) == 0, "forgotten, not only over"


def test_deaths_of_several_jobs_add_up_and_each_counts_once() -> None:
    one = Quarantine()
    first = dead(1, ("A", "CALL_LOST"), ("B", "CAPACITY"))
    for _ in range(5):
        assert not one.learn(first)
    assert not one.learn(dead(2, ("B", "ENGINE_FAILED")))
    assert one.learn(dead(3, ("A", "CALL_LOST"), ended=150.0))
    assert not one.learn(dead(4, ("A", "CALL_LOST"))), "it is known already"
    assert one.wait_s(INPUT, 150.0) == HELD_S


def test_one_worker_that_dies_of_everything_is_not_the_inputs_fault() -> None:
    one = Quarantine()
    for number in range(1, 9):
        assert not one.learn(dead(number, ("A", "CALL_LOST")))
    assert one.wait_s(INPUT, 100.0) is None


def test_what_came_to_nothing_without_a_death_or_without_a_digest_is_no_poison() -> None:
    one = Quarantine()
    assert not one.learn(dead(1, ("A", "CAPACITY"), ("B", "NO_WORKER"), ("C", "DRAINING")))
    assert not one.learn(dead(2, ("A", "CALL_LOST"), ("B", "CALL_LOST"), ("C", "CALL_LOST"), input=b""))
    assert one.held(100.0) == 0


def test_what_is_remembered_is_bounded() -> None:
    one = Quarantine()
    for number in range(module.REMEMBERED + 10):
        one.learn(dead(1, ("A", "CALL_LOST"), input=number.to_bytes(16, "big")))
    assert len(one._deaths) == len(one._last) == module.REMEMBERED
