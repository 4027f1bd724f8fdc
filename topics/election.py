"""The election: who leads a region. Pure: time is passed in, nothing is drawn.

Every node ranks the candidates (certified orchestrators, alive and ready) by BLAKE2b(region, certificate serial);
the issuer draws serials, so nobody grinds keys for a rank. There are no votes: the first of the list that shows
signs of life leads, two leaders for a moment are allowed, and the ledger fences jobs, not leaders.

    I am        what happens                                           I become
    ----------  -----------------------------------------------------  ---------
    standby     told to stand                                          young
    young       no other candidate is known                            seasoned
    young       the others stayed silent for dead_s                    seasoned
    young       SEASON_S passed                                        seasoned
    young       nothing stepped me for dead_s: I stalled               young, from now
    seasoned    the same, while others led with me                     returning
    returning   a heartbeat of another, or dead_s without any          seasoned
    any         told not to stand                                      standby

- Only a seasoned candidate sends heartbeats and is in its own list. The season keeps a node that restarts in
  circles from taking the lead each time before it knows the workers. A founder knows no other candidate: it leads
  at once, for there is nobody whose lead it could disturb, and nobody to wait for.
- A leader is a candidate that was heard within dead_s. The five best of them are the leaders, and only who sees
  fewer than five better ones sends heartbeats: the traffic does not grow with the region.
- A node that stalled suspects itself first: it gives up its place until it has heard the others again, and allows
  them the time that it was away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, assert_never

from p2p.identity import PeerId

TOP: Final = 5
"""Enough that a region outlives four failures at once, few enough that workers can report to each."""
SEASON_S: Final = 10.0
"""One interval of the workers' reports: after it, a newcomer knows what it could place on."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """interval_s between heartbeats; a candidate silent for dead_s is passed over."""

    interval_s: float
    dead_s: float


LAN: Final = Pulse(0.5, 2.0)
WAN: Final = Pulse(1.0, 3.5)
"""Across continents: fewer false alarms at 400 ms and 10 % loss, a failover of 4 s instead of 2."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A peer is a candidate with this serial, or (None) no longer one."""

    peer: PeerId
    serial: bytes | None


@dataclass(frozen=True, slots=True)
class Stand:
    """This node offers itself, or withdraws."""

    willing: bool


@dataclass(frozen=True, slots=True)
class Beat:
    """A heartbeat of another candidate arrived."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Unreachable:
    """A dial to a candidate was refused: no need to wait out its silence."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes; to be told about every half interval."""


Event = Standing | Stand | Beat | Unreachable | Tick


@dataclass(frozen=True, slots=True)
class SendBeat:
    """Tell the control topic that this node lives, and whom it believes to lead."""

    ranked: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Lead:
    """The leaders changed: best first, at most TOP."""

    leaders: tuple[PeerId, ...]


@dataclass(frozen=True, slots=True)
class Silent:
    """A leader was not heard for dead_s."""

    peer: PeerId


Effect = SendBeat | Lead | Silent
Condition = Literal["standby", "young", "seasoned", "returning"]


def rank(region: str, candidates: Iterable[tuple[PeerId, bytes]]) -> list[PeerId]:
    """Order (peer, certificate serial) pairs, best first: the same everywhere."""
    return [peer for _, peer in sorted((_score(region, serial), peer) for peer, serial in candidates)]


class Election:
    """One candidate's side of its region's election. me stands with serial once it is told to."""

    def __init__(self, region: str, me: PeerId, serial: bytes, pulse: Pulse = LAN) -> None:
        self._region = region
        self._me = me
        self._my_score = (_score(region, serial), me)
        self._pulse = pulse
        self._others: dict[PeerId, tuple[bytes, PeerId]] = {}
        self._heard: dict[PeerId, float] = {}
        self._condition: Condition = "standby"
        self._since = 0.0
        self._last_step: float | None = None
        self._next_beat = 0.0
        self._leaders: tuple[PeerId, ...] = ()

    @property
    def leaders(self) -> tuple[PeerId, ...]:
        """As of the last step: best first, at most TOP; this node may be among them."""
        return self._leaders

    @property
    def condition(self) -> Condition:
        return self._condition

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take in an event. now: monotonic seconds."""
        self._note_stall(now)
        match event:
            case Standing(peer, serial):
                self._note_standing(peer, serial)
            case Stand(willing):
                if willing != (self._condition != "standby"):
                    self._become("young" if willing else "standby", now)
            case Beat(peer):
                if peer in self._others:
                    self._heard[peer] = now
                    if self._condition == "returning":
                        self._become("seasoned", now)
            case Unreachable(peer):
                self._heard.pop(peer, None)
            case Tick():
                pass
            case _:
                assert_never(event)
        self._ripen(now)
        return self._decide(now, may_beat=isinstance(event, Tick))

    def _note_standing(self, peer: PeerId, serial: bytes | None) -> None:
        if peer == self._me:
            return
        if serial is None:
            self._others.pop(peer, None)
            self._heard.pop(peer, None)
        else:
            self._others[peer] = (_score(self._region, serial), peer)

    def _note_stall(self, now: float) -> None:
        gap = now - self._last_step if self._last_step is not None else 0.0
        self._last_step = now
        if gap <= self._pulse.dead_s:
            return
        others_led = [peer for peer in self._leaders if peer != self._me]
        for peer in others_led:
            self._heard[peer] = now
        if self._condition == "young":
            self._become("young", now)
        elif self._condition == "seasoned" and others_led:
            self._become("returning", now)

    def _ripen(self, now: float) -> None:
        waited = now - self._since
        heard = any(self._alive(peer, now) for peer in self._others)
        match self._condition:
            case "young":
                alone = not self._others or (not heard and waited >= self._pulse.dead_s)
                if alone or waited >= SEASON_S:
                    self._become("seasoned", now)
            case "returning":
                if not heard and waited >= self._pulse.dead_s:
                    self._become("seasoned", now)
            case "standby" | "seasoned":
                pass

    def _decide(self, now: float, *, may_beat: bool) -> list[Effect]:
        effects: list[Effect] = [
            Silent(peer) for peer in self._leaders if peer in self._heard and not self._alive(peer, now)
        ]
        living = [score for peer, score in self._others.items() if self._alive(peer, now)]
        if self._condition == "seasoned":
            living.append(self._my_score)
        leaders = tuple(peer for _, peer in sorted(living)[:TOP])
        if leaders != self._leaders:
            self._leaders = leaders
            effects.append(Lead(leaders))
        if may_beat and self._me in leaders and now >= self._next_beat:
            on_time = now - self._next_beat < self._pulse.interval_s
            self._next_beat = (self._next_beat if on_time else now) + self._pulse.interval_s
            effects.append(SendBeat(leaders))
        return effects

    def _alive(self, peer: PeerId, now: float) -> bool:
        heard = self._heard.get(peer)
        return heard is not None and now - heard <= self._pulse.dead_s

    def _become(self, condition: Condition, now: float) -> None:
        self._condition = condition
        self._since = now


def _score(region: str, serial: bytes) -> bytes:
    return hashlib.blake2b(region.encode() + b"\x00" + serial, digest_size=16).digest()
