"""What attackers cost: a host in a process of its own, honest calls from another, and one attack after the other.

Resident memory of the host may grow by 64 MiB over all of them, and an honest 1 KiB echo's p99 may double under each.
The attackers have the processor last (nice 19): what they cost is the host's work, and not their own on its cores.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Final

import psutil
import structlog
import trio

from benchmarks.report import Row, row, say
from benchmarks.transport.nodes import described, member_gate, open_member, reached
from p2p.errors import TetherError
from p2p.host.connection import agree
from p2p.host.errors import HOSTILE_BYTES
from p2p.host.host import Host
from p2p.host.yamux.budget import MAX_WINDOW
from p2p.host.yamux.frames import DATA, PING, SYN, WINDOW_UPDATE, header
from p2p.transport import PeerAddress, Stream

ECHO: Final = "/bench/hostile/1"
SOCKETS: Final = 10_000
AT_ONCE: Final = 200
SYNS: Final = 10_000
ROUND_S: Final = 2.0
CALLS_PER_S: Final = 500
GROWTH_MIB: Final = 64.0
TWICE: Final = 2.0
MEMBERS_PAUSE_S: Final = 0.005

Attack = Callable[[PeerAddress], Awaitable[None]]


async def _serve() -> None:
    async def echo(stream: Stream) -> None:
        while data := await stream.read(65_536):
            await stream.write(data)

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    async with open_member() as host:
        host.handle(ECHO, echo)
        print(json.dumps(described(host)), flush=True)
        await trio.sleep_forever()


# ── Strangers ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _strangers(words: bytes, hold_s: float, target: PeerAddress) -> None:
    """SOCKETS of them, AT_ONCE at a time, again and again until cancelled."""
    limit, port = trio.CapacityLimiter(AT_ONCE), _port(target)

    async def one() -> None:
        async with limit:
            with suppress(OSError, trio.BrokenResourceError):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    with trio.move_on_after(hold_s):
                        await stream.send_all(words)
                        await stream.receive_some(4096)
                        await trio.sleep(hold_s)

    while True:
        async with trio.open_nursery() as nursery:
            for _ in range(SOCKETS):
                nursery.start_soon(one)


def _port(target: PeerAddress) -> int:
    return int(target.addresses[0].rpartition("/")[2])


# ── Members ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _member(words: bytes, target: PeerAddress, *, sealed: bool = True, silent_s: float = 0.0) -> None:
    """One certified node that breaks the rules, is dropped, and comes again as fast as it can, until cancelled.

    sealed: its words go into Noise messages; silent_s: how long it then reads nothing.
    """
    gate = member_gate()
    while True:
        with suppress(*HOSTILE_BYTES, TetherError):
            async with await trio.open_tcp_stream("127.0.0.1", _port(target)) as raw:
                secured = await gate.dial(raw, target.peer)
                await agree(secured, outbound=True)
                if sealed:
                    await secured.link.send(words)
                else:
                    await raw.send_all(words)
                await trio.sleep(silent_s)
                while await secured.link.receive():
                    pass
        await trio.sleep(MEMBERS_PAUSE_S)


_SYNS: Final = b"".join(header(WINDOW_UPDATE, SYN, 2 * number + 1, 0) for number in range(SYNS))
_BEYOND: Final = header(DATA, SYN, 1, MAX_WINDOW + 1) + bytes(300_000)

ATTACKS: Final[dict[str, Attack]] = {
    "half-open handshakes": partial(_strangers, b"", 0.2),
    "plaintext": partial(_strangers, b"\x13/multistream/1.0.0\n\x0b/plaintext\n", 0.05),
    "oversized lengths": partial(
        _strangers, b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff" + bytes(4096), 0.05
    ),
    "garbage": partial(_strangers, bytes(range(256)) * 16, 0.05),
    "slow-loris": partial(_strangers, b"\x13/mul", 1.0),
    "a member's 10,000 SYNs": partial(_member, _SYNS, silent_s=1.0),
    "a member's window violations": partial(_member, _BEYOND),
    "a member's garbage after the handshake": partial(_member, b"\x00\x20" + bytes(4096), sealed=False),
    "a member's pings that it does not hear": partial(_member, header(PING, SYN, 0, 7) * 50_000),
}
"""By name; an attacker with the processor to itself, and no attack, is the control."""
CONTROL: Final = "no attack, but as much work on the cores"


async def _toil(_: PeerAddress) -> None:
    while True:
        sum(range(10_000))
        await trio.lowlevel.checkpoint()


# ── Honest calls ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def _p99_ms(stream: Stream) -> float:
    """An honest call every 2 ms for ROUND_S."""
    taken: list[float] = []
    end = time.perf_counter() + ROUND_S
    while time.perf_counter() < end:
        before = time.perf_counter()
        await stream.write(bytes(1024))
        count = 0
        while count < 1024:
            count += len(await stream.read(65_536))
        taken.append((time.perf_counter() - before) * 1e3)
        await trio.sleep(1 / CALLS_PER_S)
    return statistics.quantiles(taken, n=100)[98]


@contextmanager
def _mob(name: str, target: PeerAddress) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.hostile", name, target.peer, *target.addresses]
    mob = subprocess.Popen(command)
    try:
        yield
    finally:
        mob.kill()
        mob.wait()


async def _under(name: str, host: Host, target: PeerAddress) -> tuple[float, float]:
    """p99 in ms without and with the attack, which another process carries out."""
    stream = await host.open_stream(target.peer, ECHO)
    calm = await _p99_ms(stream)
    with _mob(name, target):
        await trio.sleep(2.0)  # imports
        stormy = await _p99_ms(stream)
    await stream.reset()
    return calm, stormy


async def _campaign(runs: int) -> list[Row]:
    with subprocess.Popen([sys.executable, "-m", "benchmarks.hostile"], stdout=subprocess.PIPE) as server:  # noqa: ASYNC220
        assert server.stdout is not None
        target = reached(**json.loads(server.stdout.readline()))
        rows = []
        try:
            async with open_member() as host:
                await host.connect(target)
                memory = psutil.Process(server.pid).memory_info
                await _p99_ms(await host.open_stream(target.peer, ECHO))  # imports, caches
                before = memory().rss
                for name in (CONTROL, *ATTACKS):
                    pairs = [await _under(name, host, target) for _ in range(runs)]
                    calm, stormy = zip(*pairs, strict=True)
                    made = row(f"honest call p99 under {name}", "ms", stormy, peer=calm, peer_name="calm")
                    rows.append(made if name == CONTROL else _judged(made))
                    say(f"{rows[-1].measure}: {made.ours:.2f} ms, calm {made.peer:.2f}, {made.ratio:.2f}x")
                grown = [(memory().rss - before) / (1 << 20)]
        finally:
            server.terminate()
    return [*rows, row("resident memory grown by all of it", "MiB", grown, at_most=GROWTH_MIB)]


def _judged(made: Row) -> Row:
    return replace(made, floor=f"<= {TWICE:g}x", holds=(made.ratio or 0.0) <= TWICE)


def measure(runs: int) -> list[Row]:
    return trio.run(_campaign, runs)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.nice(19)
        attack = ATTACKS.get(sys.argv[1], _toil)
        trio.run(attack, reached(sys.argv[2], sys.argv[3:]))
    else:
        trio.run(_serve)
