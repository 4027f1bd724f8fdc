"""How this node makes itself known to the leaders, and says goodbye."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from p2p.errors import TetherError
from p2p.identity import PeerId
from p2p.messages import HEALTH
from p2p.rpc import Rpc
from p2p.transport import Transport
from topics.directory import Directory
from topics.meeting import Meeting
from topics.pace import Nudge, about
from topics.settings import MAX_FAREWELLS, SILENCE, SwarmSettings
from topics.voice import Voice


class Reports:
    """Every node reports, not workers alone: who says nothing would soon be thought dead."""

    def __init__(
        self,
        transport: Transport,
        rpc: Rpc,
        meeting: Meeting,
        directory: Directory,
        voice: Voice,
        settings: SwarmSettings,
    ) -> None:
        self._transport = transport
        self._rpc = rpc
        self._directory = directory
        self._meeting = meeting
        self._voice = voice
        self._settings = settings
        self._changed = Nudge()

    def changed(self) -> None:
        """Report at once."""
        self._changed()

    async def report(self) -> None:
        """Tell the leaders how this node is: regularly, and when a leader, a model or the load changes."""
        while True:
            told = self._leaders(), self._voice.vital()
            await self.tell_leaders()
            due = trio.current_time() + about(self._voice.interval_s)
            await trio.sleep(self._settings.react_s)
            while trio.current_time() < due and (self._leaders(), self._voice.vital()) == told:
                await self._changed.wait(self._settings.react_s)

    async def tell_leaders(self) -> None:
        with trio.move_on_after(self._settings.call_s):
            await self._tell(self._leaders())

    async def say_goodbye(self) -> None:
        """Tell the connected peers, who would otherwise take a closed connection for a failure."""
        with trio.move_on_after(self._settings.farewell_s):
            await self._tell(sorted(self._transport.peers())[:MAX_FAREWELLS])

    async def _tell(self, peers: Iterable[PeerId]) -> None:
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(self._report_to, peer)

    async def _report_to(self, peer: PeerId) -> None:
        """Each gets an announcement of its own: two that came twice would look like replays."""
        try:
            if await self._meeting.reach(peer):
                await self._rpc.ask(peer, HEALTH, self._voice.presence(), timeout_s=self._settings.call_s)
        except TetherError as error:
            if error.code in SILENCE:
                self._directory.doubt(peer)

    def _leaders(self) -> list[PeerId]:
        leaders = self._directory.leaders(self._directory.region)
        return [peer for peer in leaders if peer != self._directory.me]
