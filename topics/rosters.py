"""Rosters: what candidates know, asked for and passed on.

    who asks                what                                      of whom                          how often
    ----------------------  ----------------------------------------  -------------------------------  ------------
    a node, no candidate    its region's roster                       the first leader that answers    roster_s
    a candidate             the same, in case a message got lost      another leader                   2 x roster_s
    everybody               a few candidates of every region          the same one                     foreign_s
    a candidate             each other region's roster                that region's first leader       foreign_s
    a node, no candidate    the same                                  its own region's leader          foreign_s
    a node without leaders  all of these                              whichever members it knows       at once

Only what changed since the last answer of the same node is sent, and for whom it no longer vouches, so a quiet
region costs next to nothing, however large.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

import trio

from p2p.errors import TetherError
from p2p.identity import PeerId
from p2p.messages import ROSTER, Announcement, Roster, RosterRequest
from p2p.rpc import Rpc
from topics.bounded import Recent
from topics.directory import Directory
from topics.meeting import Meeting
from topics.names import check_region
from topics.pace import about
from topics.settings import ROSTER_TEMPO, SILENCE, SwarmSettings
from topics.tempo import Tempo
from topics.view import MAX_ROSTER
from topics.voice import Voice

_MAX_PAGES = 64
"""More pages than a full view has: a teller that never ends is asked again later."""
_MAX_TRIES = 3
"""Nodes asked in one round before it waits for the next."""
_MAX_REVISIONS = 1_024
_Standing = tuple[int, bool]
"""A teller's incarnation, and whether its word counts: only what was told since both were so can be built on."""


class Rosters:
    """Asks for rosters and answers those who ask. candidate: whether this node takes part in the election."""

    def __init__(
        self,
        rpc: Rpc,
        meeting: Meeting,
        directory: Directory,
        voice: Voice,
        settings: SwarmSettings,
        *,
        candidate: bool,
    ) -> None:
        self._rpc = rpc
        self._directory = directory
        self._meeting = meeting
        self._voice = voice
        self._settings = settings
        self._candidate = candidate
        self._tempo = Tempo(*ROSTER_TEMPO)
        self._reached: Recent[tuple[PeerId, str], tuple[_Standing, int]] = Recent(_MAX_REVISIONS)

    async def answer(self, peer: PeerId, request: RosterRequest) -> Roster:
        """Serves ROSTER. Raises TetherError(FIELD_INVALID | CAPACITY)."""
        await trio.lowlevel.checkpoint()
        self._tempo.take(peer, trio.current_time())
        if not request.region:
            return Roster(self._directory.hints()[:MAX_ROSTER])
        region = check_region(request.region)
        page = self._directory.view.roster(region, request.since)
        return Roster((*page.members, *self._word(region)), page.gone, page.revision, page.more)

    async def ask(self, peer: PeerId, region: str) -> bool:
        """Bring this node up to date with what a peer knows of a region. Returns whether it answered."""
        if not await self._meeting.reach(peer):
            return False
        since = self._since(peer, region)
        for _ in range(_MAX_PAGES):
            try:
                request = RosterRequest(region, since)
                roster = await self._rpc.ask(peer, ROSTER, request, timeout_s=self._settings.call_s)
            except TetherError as error:
                if error.code in SILENCE:
                    self._directory.doubt(peer)
                return False
            self._directory.take_roster(roster, region, peer, connected=self._meeting.connected)
            since = roster.revision
            self._reached.put((peer, region), (self._standing(peer, region), since))
            if not roster.more:
                break
        return True

    async def refresh(self) -> None:
        """Bring the own region up to date."""
        region = self._directory.region
        leaders = [peer for peer in self._directory.leaders(region) if peer != self._directory.me]
        if self._candidate:
            random.shuffle(leaders)
        await self._ask_one(leaders or self._anybody(region), region)

    async def refresh_foreign(self) -> None:
        """Find the other regions, and bring them up to date."""
        own = [peer for peer in self._directory.leaders(self._directory.region) if peer != self._directory.me]
        await self._ask_one(own or self._anybody(""), "")
        for region in self._directory.foreign_regions():
            theirs = self._directory.leaders(region) or self._anybody(region)
            await self._ask_one(theirs if self._candidate else own or theirs, region)

    # ── Tasks ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def follow(self) -> None:
        """Keep the own region up to date; at once when something stirred."""
        interval_s = (2 if self._candidate else 1) * self._settings.roster_s
        while True:
            await self._directory.stirred.wait(about(interval_s))
            await self.refresh()
            await trio.sleep(self._settings.react_s)

    async def follow_foreign(self) -> None:
        while True:
            await self.refresh_foreign()
            await trio.sleep(about(self._settings.foreign_s))

    # ── Helpers ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _word(self, region: str) -> list[Announcement]:
        """Who leads the region: this node's own word if it is a candidate there, else the last it was told."""
        if self._candidate and region == self._directory.region:
            return [self._voice.heartbeat(tuple(self._directory.leaders(region)))]
        told = self._directory.told(region)
        return [told.said.announcement] if told is not None else []

    def _since(self, peer: PeerId, region: str) -> int:
        """Where the peer's last answer ended; the beginning, if it was of another standing or is forgotten."""
        last = self._reached.get((peer, region))
        if last is not None and last[0] == self._standing(peer, region):
            return last[1]
        self._directory.view.discredit(region, peer)
        return 0

    def _standing(self, peer: PeerId, region: str) -> _Standing:
        known = self._directory.view.get(peer)
        return known.incarnation if known is not None else 0, self._directory.trusts(peer, region)

    async def _ask_one(self, peers: Iterable[PeerId], region: str) -> None:
        for peer in list(peers)[:_MAX_TRIES]:
            if await self.ask(peer, region):
                return

    def _anybody(self, region: str) -> list[PeerId]:
        """Living members, those of the region first: whoever there is may know more."""
        living = [
            known
            for known in self._directory.view.members()
            if known.state == "alive" and known.peer != self._directory.me
        ]
        random.shuffle(living)
        return [known.peer for known in sorted(living, key=lambda known: known.region != region)]
