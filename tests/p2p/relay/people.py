"""Relays and nodes that nobody can dial, as real hosts on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import trio

from p2p.host import HostSettings, open_host
from p2p.host.addresses import is_circuit
from p2p.host.host import Host
from p2p.host.paths import Reachability
from p2p.host.settings import RelayTerms
from p2p.transport import PeerAddress
from tests.p2p.hosts import ANYWHERE, QUICK, address, until
from tests.swarms import MadeSwarm


@asynccontextmanager
async def open_relay(
    swarm: MadeSwarm,
    node: int = 0,
    *,
    terms: RelayTerms | None = None,
    listen: str = ANYWHERE,
    settings: HostSettings = QUICK,
) -> AsyncIterator[Host]:
    """A node that takes itself for public, and offers to relay."""
    async with _open(swarm, node, [listen], replace(settings, relay=terms or RelayTerms())) as host:
        host.reach.found(Reachability.PUBLIC)
        yield host


async def run_relay(
    swarm: MadeSwarm,
    node: int,
    listen: str,
    stop: trio.Event,
    *,
    task_status: trio.TaskStatus[Host] = trio.TASK_STATUS_IGNORED,
) -> None:
    """One that is gone before those who use it."""
    async with open_relay(swarm, node, listen=listen) as relay:
        task_status.started(relay)
        await stop.wait()


@asynccontextmanager
async def open_hidden(
    swarm: MadeSwarm, node: int, *relays: Host, reserve: bool = True
) -> AsyncIterator[Host]:
    """A node that listens nowhere, and waits until it is found behind all the relays; reserve=False: behind none."""
    async with _open(swarm, node, [], QUICK) as host:
        for relay in relays:
            await host.connect(address(relay))
        if reserve:
            host.reach.found(Reachability.PRIVATE)
            await until(lambda: len(circuits(host)) == len(relays))
        yield host


@asynccontextmanager
async def _open(
    swarm: MadeSwarm, node: int, listen: list[str], settings: HostSettings
) -> AsyncIterator[Host]:
    async with open_host(
        swarm.keys[node],
        listen=listen,
        swarm_id=swarm.swarm_id,
        passport=lambda: swarm.passport(node),
        admit=swarm.admit,
        settings=settings,
    ) as host:
        yield host


def circuits(host: Host) -> tuple[str, ...]:
    return tuple(text for text in host.addresses() if is_circuit(text))


def behind(host: Host) -> PeerAddress:
    return PeerAddress(host.peer_id, circuits(host))
