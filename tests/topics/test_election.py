from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.identity import PeerId
from tests.topics import transcript
from tests.topics.world import serial_of
from topics.election import (
    LAN,
    TOP,
    Beat,
    Effect,
    Election,
    Lead,
    SendBeat,
    Silent,
    Stand,
    Standing,
    Tick,
    Unreachable,
    rank,
)

NAMES = "abcdefg"


def serials_in_order() -> dict[str, bytes]:
    """Serials that rank a, b, c… in this order in region eu."""
    drawn = [(PeerId(str(index)), serial_of(str(index))) for index in range(len(NAMES))]
    by_peer = dict(drawn)
    return dict(zip(NAMES, (by_peer[peer] for peer in rank("eu", drawn)), strict=True))


SERIALS = serials_in_order()


class ElectionPlayer:
    """Plays one candidate's side, the one that the file's name ends in.

    `known NAME…`, `gone NAME…`: who stands; `beating NAME…`: whose heartbeats arrive from now on, every 0.5 s;
    `stand`, `withdraw`, `unreachable NAME`. Heartbeats that repeat the last one are folded into it.
    """

    def __init__(self, me: str) -> None:
        self._election = Election("eu", PeerId(me), SERIALS[me])
        self._beating: list[str] = []
        self._last_beat: tuple[float, tuple[PeerId, ...]] = (-1.0, ())

    def tick(self, now: float) -> list[str]:
        beats = self._beating if now % LAN.interval_s == 0 else []
        return self._steps([Beat(PeerId(name)) for name in beats] + [Tick()], now)

    def play(self, words: list[str], now: float) -> list[str]:
        match words:
            case ["known", *names]:
                return self._steps([Standing(PeerId(name), SERIALS[name]) for name in names], now)
            case ["gone", *names]:
                return self._steps([Standing(PeerId(name), None) for name in names], now)
            case ["beating", *names]:
                self._beating = names
                return self._steps([Beat(PeerId(name)) for name in names], now)
            case ["stand"]:
                return self._steps([Stand(True), Tick()], now)
            case ["withdraw"]:
                return self._steps([Stand(False)], now)
            case ["unreachable", name]:
                return self._steps([Unreachable(PeerId(name))], now)
            case _:
                raise ValueError(f"no such event: {words}")

    def _steps(self, events: list[object], now: float) -> list[str]:
        lines = []
        for event in events:
            before = self._election.condition
            effects = self._election.step(event, now)  # type: ignore[arg-type]
            if self._election.condition != before:
                lines.append(f"is {self._election.condition}")
            lines += [line for effect in effects if (line := self._shown(effect, now))]
        return lines

    def _shown(self, effect: Effect, now: float) -> str:
        match effect:
            case SendBeat(ranked):
                at, last = self._last_beat
                self._last_beat = now, ranked
                return "" if last == ranked and now - at <= LAN.interval_s else f"beats: {' '.join(ranked)}"
            case Lead(leaders):
                return f"leaders: {' '.join(leaders) or '-'}"
            case Silent(peer):
                return f"silent: {peer}"


@pytest.mark.parametrize("name", transcript.named("election"))
def test_the_election_plays_as_written(name: str) -> None:
    transcript.check(name, ElectionPlayer(name.removesuffix(".txt")[-1]))


@given(st.permutations(list(SERIALS.items())))
def test_everybody_ranks_alike_whatever_the_order_of_arrival(candidates: list[tuple[str, bytes]]) -> None:
    ranked = rank("eu", [(PeerId(name), serial) for name, serial in candidates])
    assert "".join(ranked) == NAMES


def test_the_region_is_part_of_the_rank() -> None:
    candidates = [(PeerId(name), serial) for name, serial in SERIALS.items()]
    assert len({tuple(rank(region, candidates)) for region in ("eu", "us", "ap", "eu-1")}) > 1


def test_a_lone_founder_leads_at_once() -> None:
    election = Election("eu", PeerId("a"), SERIALS["a"])
    assert election.step(Stand(True), 0.0) == [Lead((PeerId("a"),))]
    assert election.step(Tick(), 0.0) == [SendBeat((PeerId("a"),))]


def test_heartbeats_keep_their_interval_however_often_time_is_told() -> None:
    election = Election("eu", PeerId("a"), SERIALS["a"])
    election.step(Stand(True), 0.0)
    beats = [
        step / 20
        for step in range(200)
        if any(isinstance(e, SendBeat) for e in election.step(Tick(), step / 20))
    ]
    assert beats == [step / 2 for step in range(20)]


def test_a_heartbeat_of_somebody_who_does_not_stand_changes_nothing() -> None:
    election = Election("eu", PeerId("b"), SERIALS["b"])
    election.step(Stand(True), 0.0)
    assert election.step(Beat(PeerId("a")), 0.1) == []
    assert election.leaders == ("b",)


def test_there_are_never_more_than_the_top() -> None:
    election = Election("eu", PeerId("g"), SERIALS["g"])
    election.step(Stand(True), 0.0)
    for name in "abcdef":
        election.step(Standing(PeerId(name), SERIALS[name]), 0.0)
        election.step(Beat(PeerId(name)), 0.0)
    assert election.leaders == tuple("abcde")
    assert len(election.leaders) == TOP
