"""What attackers cost: a host in a process of its own, honest calls from another, and one attack after the other.

Resident memory of the host may grow by 64 MiB over all of them, and an honest 1 KiB echo's p99 may double under each.
"""

from __future__ import annotations

import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import psutil
import structlog
import trio

from benchmarks.report import Row, row
from benchmarks.transport.nodes import described, open_member, reached
from p2p.host.host import Host
from p2p.transport import PeerAddress, Stream

ECHO: Final = "/bench/hostile/1"
SOCKETS: Final = 10_000
AT_ONCE: Final = 200
ROUND_S: Final = 2.0
CALLS_PER_S: Final = 500
GROWTH_MIB: Final = 64.0

Attack = Callable[[int], Awaitable[None]]


async def _serve() -> None:
    async def echo(stream: Stream) -> None:
        while data := await stream.read(65_536):
            await stream.write(data)

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    async with open_member() as host:
        host.handle(ECHO, echo)
        print(json.dumps(described(host)), flush=True)
        await trio.sleep_forever()


async def _socket(port: int, words: bytes, hold_s: float) -> None:
    with suppress(OSError, trio.BrokenResourceError):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            if words:
                await stream.send_all(words)
            with trio.move_on_after(hold_s):
                await stream.receive_some(4096)
                await trio.sleep(hold_s)


async def _burst(port: int, words: bytes, hold_s: float) -> None:
    """SOCKETS of them, AT_ONCE at a time, until cancelled."""
    limit = trio.CapacityLimiter(AT_ONCE)

    async def one() -> None:
        async with limit:
            await _socket(port, words, hold_s)

    async with trio.open_nursery() as nursery:
        for _ in range(SOCKETS):
            nursery.start_soon(one)


ATTACKS: Final[dict[str, Attack]] = {
    "half-open handshakes": lambda port: _burst(port, b"", 0.2),
    "plaintext": lambda port: _burst(port, b"\x13/multistream/1.0.0\n\x0b/plaintext\n", 0.05),
    "oversized lengths": lambda port: _burst(
        port, b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xff" + bytes(4096), 0.05
    ),
    "garbage": lambda port: _burst(port, bytes(range(256)) * 16, 0.05),
    "slow-loris": lambda port: _burst(port, b"\x13/mul", 1.0),
}


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


async def _under(attack: Attack, host: Host, target: PeerAddress, attackers: str) -> tuple[float, float]:
    """p99 in ms without and with the attack, which another process carries out."""
    stream = await host.open_stream(target.peer, ECHO)
    calm = await _p99_ms(stream)
    port = target.addresses[0].rpartition("/")[2]
    with subprocess.Popen([sys.executable, "-m", "benchmarks.hostile", attackers, port]) as mob:  # noqa: ASYNC220
        await trio.sleep(1.0)
        stormy = await _p99_ms(stream)
        mob.terminate()
    await stream.reset()
    return calm, stormy


async def _campaign(runs: int) -> list[Row]:
    with subprocess.Popen([sys.executable, "-m", "benchmarks.hostile"], stdout=subprocess.PIPE) as server:  # noqa: ASYNC220
        assert server.stdout is not None
        target = reached(**json.loads(server.stdout.readline()))
        try:
            async with open_member() as host:
                await host.connect(target)
                memory = psutil.Process(server.pid).memory_info
                await _under(ATTACKS["plaintext"], host, target, "plaintext")  # imports, caches
                before = memory().rss
                rows = []
                for name, attack in ATTACKS.items():
                    pairs = [await _under(attack, host, target, name) for _ in range(runs)]
                    calm, stormy = zip(*pairs, strict=True)
                    rows.append(
                        row(f"honest call p99 under {name}", "ms", stormy, peer=calm, peer_name="calm")
                    )
                grown = [(memory().rss - before) / (1 << 20)]
        finally:
            server.terminate()
    return [*rows, row("resident memory grown by all of it", "MiB", grown, at_most=GROWTH_MIB)]


def measure(runs: int) -> list[Row]:
    return trio.run(_campaign, runs)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(ATTACKS[sys.argv[1]], int(sys.argv[2]))
    else:
        trio.run(_serve)
