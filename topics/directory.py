"""What this node knows of all others: the view, the election, and what candidates told of who leads.

The one place where announcements, heartbeats and connections come in and leaders come out. No task, no waiting: every
method runs to its end between two awaits, so whoever calls it sees a whole state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from p2p.errors import TetherError
from p2p.identity import PeerId
from p2p.membership import Member
from p2p.messages import Announcement, Heartbeat, Roster
from p2p.wire import decode
from topics.announce import MAX_CREDENTIAL_BYTES, MAX_PAYLOAD_BYTES, Checked, Checker, Refused
from topics.election import (
    TOP,
    Beat,
    Election,
    Event,
    Lead,
    SendBeat,
    Silent,
    Stand,
    Standing,
    Tick,
    Unreachable,
    rank,
)
from topics.names import Topic
from topics.pace import Nudge
from topics.settings import MAX_REGIONS, SwarmMetrics, SwarmSettings
from topics.view import MAX_ROSTER, Change, View

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Told:
    """A candidate's word on who leads its region. at: when it came, monotonic seconds."""

    ranked: frozenset[PeerId]
    said: Checked
    at: float


class Directory:
    """candidate: whether this node takes part in its region's election. now: unix seconds."""

    def __init__(
        self,
        me: Member,
        region: str,
        settings: SwarmSettings,
        metrics: SwarmMetrics,
        *,
        candidate: bool,
        now: Callable[[], float],
    ) -> None:
        self.me = me.peer
        self.region = region
        self.view = View(me.peer, settings.patience)
        self.joined = trio.Event()
        self.stirred = Nudge()
        """Nudged when this node should ask around: another leader, none, or a stranger that sends heartbeats."""
        self.lost = Nudge()
        """Nudged when nobody leads the region any more."""
        serial = me.certificate.serial
        self._election = Election(region, me.peer, serial, settings.pulse) if candidate else None
        self._checker = Checker(me.certificate.swarm_id, metrics.announcement_dropped)
        self._settings = settings
        self._metrics = metrics
        self._now = now
        self._told: dict[str, Told] = {}
        self._first: PeerId | None = None

    # ── What comes in ────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, announcement: Announcement, author: PeerId) -> Checked:
        """News straight from its author. Raises Refused."""
        if announcement.envelope.node_id != author:
            raise self._checker.refusal("forged", "A node may only introduce itself.")
        checked = self._verified(announcement, None)
        self.accept(checked)
        return checked

    def judge(self, data: bytes, topic: Topic) -> Checked:
        """Whether gossip is worth passing on; changes nothing. Raises Refused."""
        if len(data) > MAX_PAYLOAD_BYTES + 2 * MAX_CREDENTIAL_BYTES:
            raise self._checker.refusal("oversized", "The announcement is too large.")
        try:
            announcement = decode(data, Announcement)
        except TetherError as error:
            raise self._checker.refusal("malformed", error.detail) from error
        checked = self._verified(announcement, topic)
        self._checker.refuse_replay(checked)
        return checked

    def accept(self, checked: Checked) -> None:
        """Take in what was verified. Raises Refused if it was here before."""
        if checked.peer == self.me:
            return
        self._checker.admit(checked)
        if isinstance(checked.message, Heartbeat):
            self._beat(checked.peer)
        else:
            self._apply(self.view.observe(checked, trio.current_time()), checked.peer)

    def take_roster(
        self, roster: Roster, region: str, teller: PeerId, *, connected: frozenset[PeerId]
    ) -> None:
        """A peer's answer about one region or (empty) a few of any; what does not hold in it is dropped."""
        named: list[PeerId] = []
        for announcement in roster.members[: MAX_ROSTER + 1]:
            try:
                self._take_copy(announcement, region, teller)
            except Refused:
                continue
            named.append(announcement.envelope.node_id)
        if not self.trusts(teller, region):
            return
        now = trio.current_time()
        for peer in named:
            self.view.credit(peer, teller)
        for peer in roster.gone[:MAX_ROSTER]:
            if peer not in connected:
                self._follow(self.view.retract(peer, teller, now))
        if not roster.more:
            self._follow(self.view.vouch(region, teller, now))

    def take_own(self, announcement: Announcement) -> None:
        """What this node says of itself belongs in its view as well."""
        checked = self._verified(announcement, None)
        self._apply(self.view.observe(checked, trio.current_time()), self.me)

    def connection(self, peer: PeerId, *, up: bool) -> None:
        now = trio.current_time()
        if up:
            self._apply(self.view.heard(peer, now), peer)
        else:
            self.view.closed(peer, now)

    def doubt(self, peer: PeerId) -> None:
        """A peer does not answer: it leads nobody until it is heard again."""
        self._apply(self.view.doubt(peer, trio.current_time()), peer)
        self._step(Unreachable(peer))
        self._settle()

    def stand(self, willing: bool) -> None:
        """Offer this node as a leader, or withdraw it. Does nothing in a node that is no candidate."""
        self._step(Stand(willing))
        self._settle()

    def tick(self) -> tuple[PeerId, ...] | None:
        """Let time pass; about every half interval of the pulse. Returns the ranking of a heartbeat that is due."""
        self._follow(self.view.tick(trio.current_time()))
        beat = self._step(Tick())
        self._settle()
        return beat

    # ── What comes out ───────────────────────────────────────────────────────────────────────────────────────────

    def leaders(self, region: str) -> list[PeerId]:
        """Ranked candidates that live, best first, at most TOP.

        In its own region a candidate goes by the heartbeats that it hears. Elsewhere, and in nodes that hear none,
        the certified candidates are ranked here; a candidate's recent word narrows them to those that really lead.
        """
        if self._election is not None and region == self.region:
            return list(self._election.leaders)
        standing = [(known.peer, known.member.certificate.serial) for known in self.view.candidates(region)]
        ranked = rank(region, standing)
        told = self.told(region)
        leading = [peer for peer in ranked if told is not None and peer in told.ranked]
        return (leading or ranked)[:TOP]

    def trusts(self, teller: PeerId, region: str) -> bool:
        """Whether a roster vouches for its members: leaders hear theirs themselves and take nobody's word."""
        leaders, own = self.leaders(region), self.leaders(self.region)
        if teller in leaders:
            return self.me not in leaders
        return region not in ("", self.region) and teller in own and self.me not in own

    def told(self, region: str) -> Told | None:
        """The last word on who leads a region, unless it is old."""
        told = self._told.get(region)
        fresh = told is not None and trio.current_time() - told.at <= self._settings.hearsay_s
        return told if fresh else None

    def foreign_regions(self) -> list[str]:
        return [region for region in self.view.regions() if region != self.region][:MAX_REGIONS]

    def hints(self) -> tuple[Announcement, ...]:
        """A few candidates of every region, so that whoever met one region finds the others."""
        found = (self.view.get(peer) for region in self.view.regions() for peer in self.leaders(region))
        return tuple(known.announcement for known in found if known is not None)[: TOP * MAX_REGIONS]

    # ── Between the two ──────────────────────────────────────────────────────────────────────────────────────────

    def _take_copy(self, announcement: Announcement, region: str, teller: PeerId) -> None:
        envelope = announcement.envelope
        if envelope.node_id == self.me:
            return
        if self.view.knows(announcement) and not envelope.topic.startswith("tether/control/"):
            return
        checked = self._verified(announcement, None)
        if region and checked.topic.region != region:
            raise self._checker.refusal("region", "The roster is of another region.")
        if isinstance(checked.message, Heartbeat):
            self._take_word(checked, checked.message, teller)
        else:
            self._apply(self.view.observe(checked, trio.current_time(), copy=True), checked.peer)

    def _take_word(self, checked: Checked, heartbeat: Heartbeat, teller: PeerId) -> None:
        """A candidate's word on who leads its region; from its own mouth it is a sign of life as well."""
        region = checked.topic.region
        last = self._told.get(region)
        newer = last is None or last.said.peer != checked.peer or last.said.number < checked.number
        if newer and (last is not None or len(self._told) < MAX_REGIONS):
            self._told[region] = Told(frozenset(heartbeat.ranked), checked, trio.current_time())
        if region == self.region and checked.peer == teller and teller in heartbeat.ranked:
            self._beat(teller)
        self._settle()

    def _beat(self, peer: PeerId) -> None:
        known = self.view.get(peer)
        if known is None or known.state == "dead":
            self.stirred()
            return
        self._apply(self.view.heard(peer, trio.current_time()), peer)
        self._step(Beat(peer))
        self._settle()

    def _follow(self, changes: list[Change]) -> None:
        for change in changes:
            self._apply([change], change.peer)

    def _apply(self, changes: list[Change], peer: PeerId) -> None:
        """Follow up on what the view made of news about a peer."""
        for change in changes:
            known = self.view.get(change.peer)
            region = known.region if known else ""
            _log.info("member", peer=change.peer, before=change.before, after=change.after, region=region)
        known = self.view.get(peer)
        stands = known is not None and known.serving and known.region == self.region
        if known is not None and "orchestrator" in known.member.certificate.roles:
            stands = stands and "orchestrator" in known.presence.roles
            self._step(Standing(peer, known.member.certificate.serial if stands else None))
            self._settle()

    def _step(self, event: Event) -> tuple[PeerId, ...] | None:
        beat = None
        if self._election is not None:
            for effect in self._election.step(event, trio.current_time()):
                match effect:
                    case SendBeat(ranked):
                        beat = ranked
                    case Silent(peer):
                        self._apply(self.view.doubt(peer, trio.current_time()), peer)
                    case Lead():
                        pass
        return beat

    def _settle(self) -> None:
        """Notice that another node leads now."""
        leaders = self.leaders(self.region)
        first = leaders[0] if leaders else None
        if first == self._first:
            return
        _log.info("leader", region=self.region, leader=first, before=self._first)
        self._first = first
        self._metrics.leader_changed(self.region)
        self.stirred()
        if first is not None:
            self.joined.set()
        else:
            self.lost()

    def _verified(self, announcement: Announcement, topic: Topic | None) -> Checked:
        return self._checker.verify(announcement, topic, self._now())
