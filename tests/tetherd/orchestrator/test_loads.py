"""What is counted as taken before, between and after a worker's reports."""

from __future__ import annotations

from p2p.identity import PeerId
from tetherd.orchestrator.loads import TOLD_S, Loads

ONE, TWO = PeerId("one"), PeerId("two")
REPORT, NEXT, REBORN = (1, 1), (1, 2), (2, 1)


def test_the_report_is_believed_when_nothing_is_newer() -> None:
    assert Loads().taken(ONE, 3, REPORT, 0.0) == 3


def test_what_is_asked_counts_at_once_and_no_more_when_it_failed() -> None:
    loads = Loads()
    loads.ask(ONE)
    loads.ask(ONE)
    assert (loads.taken(ONE, 1, REPORT, 0.0), loads.taken(TWO, 1, REPORT, 0.0)) == (3, 1)
    loads.failed(ONE)
    assert loads.taken(ONE, 1, REPORT, 0.0) == 2


def test_an_answer_counts_until_the_next_report() -> None:
    loads = Loads()
    loads.ask(ONE)
    loads.answered(ONE, 4, REPORT, 0.0)
    assert loads.taken(ONE, 0, REPORT, 0.1) == 4
    assert loads.taken(ONE, 2, NEXT, 0.2) == 2
    assert loads.taken(ONE, 2, NEXT, 0.3) == 2


def test_a_worker_that_came_back_is_believed_anew() -> None:
    loads = Loads()
    loads.ask(ONE)
    loads.answered(ONE, 4, (1, 99), 0.0)
    assert loads.taken(ONE, 0, REBORN, 0.1) == 0


def test_without_a_new_report_the_old_one_holds_again_after_a_second() -> None:
    loads = Loads()
    loads.ask(ONE)
    loads.answered(ONE, 4, REPORT, 0.0)
    assert loads.taken(ONE, 0, REPORT, TOLD_S) == 0


def test_answers_that_overtake_each_other_do_not_lower_the_load() -> None:
    loads = Loads()
    for _ in range(2):
        loads.ask(ONE)
    loads.answered(ONE, 2, REPORT, 0.0)
    loads.answered(ONE, 1, REPORT, 0.1)
    assert loads.taken(ONE, 0, REPORT, 0.1) == 2


def test_a_worker_that_refused_a_manifest_is_left_alone_with_it_for_a_second() -> None:
    loads = Loads()
    loads.ask(ONE)
    loads.refused(ONE, "aa", 0.0)
    assert loads.taken(ONE, 0, REPORT, 0.0) == 0
    assert loads.full(ONE, "aa", 0.5)
    assert not loads.full(ONE, "bb", 0.5)
    assert not loads.full(ONE, "aa", TOLD_S)
