"""The view: which members there are, and whether each is alive, suspect or dead. Pure: time is passed in.

    state    what happens                                              becomes
    -------  --------------------------------------------------------  -------
    alive    its announcement outlives its ttl                         suspect
    alive    its connection closed and stayed so for closed_s          suspect
    alive    it cannot be reached (doubt)                              suspect
    alive    the leader that vouched for it retracts                   suspect
    suspect  a heartbeat, a connection, a newer announcement           alive
    suspect  a leader still vouches for it after hearsay_s             alive (from dead, too)
    suspect  nothing of it for suspect_s                               dead
    dead     a newer announcement                                      alive
    dead     nothing of it for forget_s                                (gone)
    any      a newer announcement says that it is leaving              dead

Only the node itself can sign a newer (incarnation, seq), so a newer announcement wins; a copy of what is known
already changes nothing, and a member is remembered for longer than any of its announcements is good.

Leaders hear every member; the others hear of most members through a leader's roster, which tells what changed and
for whom the leader no longer vouches. As long as the leader answers, the others count as alive for whom it vouches,
so they need not be told of every report. A copy may have been written before its author died: it does not call back
a closed connection, nor a suspicion younger than hearsay_s. Leaders take nobody's word, so no rumour goes in rings.

A node whose own ticks stop (a laptop's lid, a stalled disk) suspects itself first: after a gap of stall_s it
allows everybody the time that it was away (Lifeguard, Dadgar et al. 2018, takes the same side).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

from msgspec import structs

from p2p.identity import PeerId
from p2p.membership import Member
from p2p.messages import Announcement, Presence
from topics.announce import MAX_NODES, Checked

State = Literal["alive", "suspect", "dead"]

MAX_ROSTER: Final = 200
MAX_ROSTER_BYTES: Final = 512 * 1024
"""One roster stays well inside a frame (1 MiB), whatever its members put in their announcements."""
DETAILED_MEMBERS: Final = 200
"""Up to here rosters tell of every report; beyond, only of changes other than load: 2,000 workers would be 65 kB/s."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the view waits, in seconds."""

    closed_s: float = 2.0
    """A closed connection is redialled in this time, if its peer lives."""
    suspect_s: float = 20.0
    """Two missed reports more, before a suspect counts as dead."""
    forget_s: float = 900.0
    """Longer than an announcement can be good (ttl and clock error on both sides: 720 s)."""
    hearsay_s: float = 5.0
    """What a candidate's roster told this long after a death, the candidate had time to know better."""
    stall_s: float = 2.0
    """Ticks come every half second; a gap like this is our own fault."""


PATIENCE: Final = Patience()


@dataclass(frozen=True, slots=True)
class MemberState:
    """One member. last_seen, since (of its state), closed_at: monotonic seconds; revision: of this view."""

    peer: PeerId
    member: Member
    presence: Presence
    incarnation: int
    seq: int
    state: State
    last_seen: float
    since: float
    revision: int
    announcement: Announcement
    closed_at: float | None = None
    teller: PeerId | None = None
    """The leader whose roster named it last."""

    @property
    def region(self) -> str:
        return self.presence.region

    @property
    def serving(self) -> bool:
        """Alive, and willing to take work."""
        return self.state == "alive" and self.presence.state == "ready"

    @property
    def number(self) -> tuple[int, int]:
        return self.incarnation, self.seq


@dataclass(frozen=True, slots=True)
class Change:
    """A member came (before None), went (after None), or changed its state."""

    peer: PeerId
    before: State | None
    after: State | None


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a roster. gone: for whom this node no longer vouches; revision: the next question's since."""

    members: tuple[Announcement, ...]
    gone: tuple[PeerId, ...]
    revision: int
    more: bool


class View:
    """What one node, me, knows of the members of all regions; at most limit of them."""

    def __init__(self, me: PeerId, patience: Patience = PATIENCE, *, limit: int = MAX_NODES) -> None:
        self._me = me
        self._patience = patience
        self._limit = limit
        self._members: dict[PeerId, MemberState] = {}
        self._revision = 0
        self._last_tick: float | None = None

    def get(self, peer: PeerId) -> MemberState | None:
        return self._members.get(peer)

    def members(self, region: str | None = None) -> list[MemberState]:
        """All of a region, or of all regions, the dead among them."""
        return [known for known in self._members.values() if region is None or known.region == region]

    def workers(self, region: str) -> list[MemberState]:
        """Those that serve now: alive, ready, with a health report."""
        return [
            known for known in self.members(region) if known.serving and known.presence.health is not None
        ]

    def candidates(self, region: str) -> list[MemberState]:
        """The certified orchestrators of a region that run the role, alive and ready."""
        return [
            known
            for known in self.members(region)
            if known.serving and "orchestrator" in known.presence.roles
        ]

    def regions(self) -> list[str]:
        return sorted({known.region for known in self._members.values() if known.state != "dead"})

    def knows(self, announcement: Announcement) -> bool:
        """Whether this announcement, or a newer one of its node, is here already."""
        envelope = announcement.envelope
        known = self._members.get(envelope.node_id)
        return known is not None and (envelope.incarnation, envelope.seq) <= known.number

    def observe(self, checked: Checked, now: float, *, copy: bool = False) -> list[Change]:
        """Take in a checked presence, unless one as new is known. copy: it came out of a roster."""
        presence = checked.message
        if not isinstance(presence, Presence) or self.knows(checked.announcement):
            return []
        known = self._members.get(checked.peer)
        if known is None and not self._make_room():
            return []
        incarnation, seq = checked.number
        after: State = "dead" if presence.state == "leaving" else "alive"
        closed_at = None
        if copy and known is not None and known.incarnation == incarnation and after == "alive":
            closed_at = known.closed_at
            if known.state == "suspect" and now - known.since < self._patience.hearsay_s:
                after = "suspect"
        since, teller, revision = now, None, self._revision + 1
        if known is not None:
            since = known.since if known.state == after else now
            teller = known.teller
            news = len(self._members) <= DETAILED_MEMBERS or _is_news(known, presence, incarnation, after)
            revision = revision if news else known.revision
        self._revision = max(self._revision, revision)
        self._members[checked.peer] = MemberState(
            checked.peer, checked.member, presence, incarnation, seq, after, now, since, revision,
            checked.announcement, closed_at, teller,
        )  # fmt: skip
        return _change(checked.peer, known.state if known else None, after)

    def heard(self, peer: PeerId, now: float) -> list[Change]:
        """A sign of life other than an announcement: a heartbeat, a connection."""
        known = self._members.get(peer)
        if known is None or known.state == "dead":
            return []
        return self._put(replace(known, last_seen=now, closed_at=None), "alive", now)

    def closed(self, peer: PeerId, now: float) -> None:
        """The last connection to a peer closed."""
        known = self._members.get(peer)
        if known is not None and known.state == "alive" and peer != self._me:
            self._members[peer] = replace(known, closed_at=now)

    def doubt(self, peer: PeerId, now: float) -> list[Change]:
        """A peer does not answer."""
        known = self._members.get(peer)
        if known is None or known.state != "alive" or peer == self._me:
            return []
        return self._put(known, "suspect", now)

    def credit(self, peer: PeerId, teller: PeerId) -> None:
        """A leader's roster names a peer: from now on its answers vouch for it."""
        known = self._members.get(peer)
        if known is not None and peer != self._me:
            self._members[peer] = replace(known, teller=teller)

    def discredit(self, region: str, teller: PeerId) -> None:
        """A leader starts its roster anew: what it said before counts no more."""
        for known in self.members(region):
            if known.teller == teller:
                self._members[known.peer] = replace(known, teller=None)

    def vouch(self, region: str, teller: PeerId, now: float) -> list[Change]:
        """A leader answered to the end: it still hears all whom it named and did not retract."""
        changes: list[Change] = []
        for known in self.members(region):
            if known.teller != teller or known.closed_at is not None or known.presence.state == "leaving":
                continue
            if known.state == "alive" or now - known.since >= self._patience.hearsay_s:
                changes += self._put(replace(known, last_seen=now), "alive", now)
        return changes

    def retract(self, peer: PeerId, teller: PeerId, now: float) -> list[Change]:
        """A leader no longer vouches for a peer, and nobody else does."""
        known = self._members.get(peer)
        if known is None or known.teller != teller:
            return []
        self._members[peer] = replace(known, teller=None)
        return self.doubt(peer, now)

    def tick(self, now: float) -> list[Change]:
        """Let time pass; to be called about every half second."""
        self._forgive_stall(now)
        return [change for known in list(self._members.values()) for change in self._age(known, now)]

    def roster(self, region: str, since: int) -> Page:
        """What changed in a region after revision since, oldest first; since 0 is everything."""
        news = [known for known in self.members(region) if known.revision > since]
        page: list[Announcement] = []
        gone: list[PeerId] = []
        room, reached = MAX_ROSTER_BYTES, since
        for known in sorted(news, key=lambda known: known.revision):
            room -= len(known.announcement.envelope.payload) + len(known.announcement.credential)
            if page and (room < 0 or len(page) + len(gone) == MAX_ROSTER):
                return Page(tuple(page), tuple(gone), reached, more=True)
            if known.state == "alive" or known.presence.state == "leaving":
                page.append(known.announcement)
            else:
                gone.append(known.peer)
            reached = known.revision
        return Page(tuple(page), tuple(gone), max(since, self._revision), more=False)

    def _age(self, known: MemberState, now: float) -> list[Change]:
        patience = self._patience
        if known.peer == self._me:
            return []
        match known.state:
            case "alive":
                expired = now - known.last_seen > known.announcement.envelope.ttl
                lost = known.closed_at is not None and now - known.closed_at >= patience.closed_s
                return self._put(known, "suspect", now) if expired or lost else []
            case "suspect":
                return self._put(known, "dead", now) if now - known.since >= patience.suspect_s else []
            case "dead":
                if now - known.since < patience.forget_s:
                    return []
                del self._members[known.peer]
                return [Change(known.peer, "dead", None)]

    def _forgive_stall(self, now: float) -> None:
        gap = now - self._last_tick if self._last_tick is not None else 0.0
        self._last_tick = now
        if gap <= self._patience.stall_s:
            return
        for peer, known in self._members.items():
            closed_at = None if known.closed_at is None else min(known.closed_at + gap, now)
            last_seen, since = min(known.last_seen + gap, now), min(known.since + gap, now)
            self._members[peer] = replace(known, last_seen=last_seen, since=since, closed_at=closed_at)

    def _put(self, known: MemberState, after: State, now: float) -> list[Change]:
        before, since = known.state, known.since if known.state == after else now
        closed_at = known.closed_at if after == "alive" else None
        if "alive" in (before, after) and before != after:
            self._revision += 1
            known = replace(known, revision=self._revision)
        self._members[known.peer] = replace(known, state=after, since=since, closed_at=closed_at)
        return _change(known.peer, before, after)

    def _make_room(self) -> bool:
        if len(self._members) < self._limit:
            return True
        dead: Iterator[MemberState] = (known for known in self._members.values() if known.state == "dead")
        oldest = min(dead, key=lambda known: known.since, default=None)
        if oldest is None:
            return False
        del self._members[oldest.peer]
        return True


def _is_news(known: MemberState, presence: Presence, incarnation: int, after: State) -> bool:
    """Whether more than the load changed. Candidates are always news: newcomers need their latest word."""
    if incarnation != known.incarnation or after != known.state or "orchestrator" in presence.roles:
        return True
    return _without_load(presence) != _without_load(known.presence)


def _without_load(presence: Presence) -> Presence:
    if presence.health is None:
        return presence
    steady = structs.replace(presence.health, load=0, queue=0, tokens_per_second=0.0, free_bytes=0)
    return structs.replace(presence, health=steady)


def _change(peer: PeerId, before: State | None, after: State) -> list[Change]:
    return [] if before == after else [Change(peer, before, after)]
