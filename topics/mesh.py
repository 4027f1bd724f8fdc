"""A candidate's part in the gossip meshes of its region: heartbeats on control, presences on presence.

Only candidates are in these meshes, so a region's gossip does not grow with its workers.
"""

from __future__ import annotations

from typing import Final

import trio

from p2p.identity import PeerId
from p2p.membership import SwarmId
from p2p.messages import Announcement
from p2p.transport import Gossip, Pubsub, TopicLimits
from p2p.wire import encode
from topics import names
from topics.announce import Checked, Refused
from topics.bounded import Recent
from topics.directory import Directory
from topics.names import Topic
from topics.pace import Nudge, about
from topics.settings import SwarmSettings
from topics.voice import Voice

PRESENCE_LIMITS: Final = TopicLimits(message_bytes=24 * 1024, per_s=100.0, burst=400, backlog=256)
"""The largest presence, 16 KiB, and its credential; 20 candidates whose load changes all the time, four times a second
each, which one peer may pass on alone."""
CONTROL_LIMITS: Final = TopicLimits(message_bytes=8 * 1024, per_s=50.0, burst=200, backlog=64)
"""A heartbeat takes 2 KiB. Twice a second from 20 candidates, each of whom leads in its own eyes: 40. What waits is
worth nothing once it is dead_s old, and 64 is what all of them beat by then. On models topics nothing is announced, so
nobody follows them, and what comes on one is dropped unread."""

_MAX_VERIFIED: Final = 512
"""Verified messages on their way from the check to the reader: twice what its channel holds."""


class Mesh:
    """Listens, and speaks for one candidate."""

    def __init__(
        self, pubsub: Pubsub, directory: Directory, voice: Voice, swarm_id: SwarmId, settings: SwarmSettings
    ) -> None:
        self._pubsub = pubsub
        self._directory = directory
        self._voice = voice
        self._swarm_id = swarm_id
        self._settings = settings
        self._presence = names.presence(directory.region)
        self._control = names.control(directory.region)
        self._changed = Nudge()

    @property
    def topics(self) -> tuple[Topic, ...]:
        return self._presence, self._control

    def changed(self) -> None:
        """Look at once whether there is something to announce."""
        self._changed()

    async def listen(
        self, topic: Topic, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Take in what the mesh of a topic brings; started once this node is in it."""
        verified: Recent[bytes, Checked] = Recent(_MAX_VERIFIED)

        def worth_passing_on(gossip: Gossip) -> bool:
            try:
                checked = self._directory.judge(gossip.data, topic)
            except Refused:
                return False
            verified.put(gossip.data, checked)
            return True

        limits = CONTROL_LIMITS if topic == self._control else PRESENCE_LIMITS
        async with self._pubsub.subscribe(topic.gossip_id(self._swarm_id), worth_passing_on, limits) as news:
            task_status.started()
            async for gossip in news:
                checked = verified.get(gossip.data)
                if checked is not None:
                    self._take(checked)

    async def beat(self, ranked: tuple[PeerId, ...]) -> None:
        await self._publish(self._control, self._voice.heartbeat(ranked))

    async def announce(self) -> None:
        """Publish this node's presence: regularly, and at once when it changes."""
        while True:
            told = self._voice.vital()
            await self.announce_now()
            due = trio.current_time() + about(self._settings.report_s)
            await trio.sleep(self._settings.react_s)
            while trio.current_time() < due and self._voice.vital() == told:
                await self._changed.wait(self._settings.react_s)

    async def announce_now(self) -> None:
        await self._publish(self._presence, self._voice.presence())

    async def _publish(self, topic: Topic, announcement: Announcement) -> None:
        """A mesh that does not take a message within an interval has lost it: the next one is due."""
        with trio.move_on_after(self._settings.pulse.interval_s):
            await self._pubsub.publish(topic.gossip_id(self._swarm_id), encode(announcement))

    def _take(self, checked: Checked) -> None:
        try:
            self._directory.accept(checked)
        except Refused:  # it came by another way between the check and now
            return
