"""Which routers are punched through: ten tries a pair, each in a new internet with delay and 2 % loss.

Needs root: every pair gets network namespaces of its own, with routers of nftables (`tests/net/internet.py`).
"""

from __future__ import annotations

import statistics
from typing import Final

import trio

from benchmarks.report import Row, say
from tests.net.internet import Internet, Nat
from tests.net.namespaces import missing
from tests.net.pairs import open_pair

TRIES: Final = 10
LOSS: Final = 0.02
FEW: Final = 3
"""Tries of a pair that cannot be punched: each takes its whole patience."""
FLOOR_S: Final = 5.0
AIM_S: Final = 2.0

CONE, PORT, EIM, SYMMETRIC, NO_UDP = (
    Nat.FULL_CONE,
    Nat.PORT_RESTRICTED,
    Nat.EIM,
    Nat.SYMMETRIC,
    Nat.UDP_BLOCKED,
)
PAIRS: Final = (
    (PORT, PORT),
    (CONE, CONE),
    (CONE, PORT),
    (PORT, CONE),
    (EIM, PORT),
    (PORT, EIM),
    (EIM, EIM),
    (SYMMETRIC, CONE),
    (CONE, SYMMETRIC),
    (NO_UDP, PORT),
    (NO_UDP, NO_UDP),
)
HOPELESS: Final = ((PORT, SYMMETRIC), (SYMMETRIC, PORT), (SYMMETRIC, SYMMETRIC))


def measure(_runs: int) -> list[Row]:
    """The first of a pair dials the second over the relay."""
    if why := missing():
        say(f"left out: {why}")
        return []
    return [
        row
        for pairs, tries in ((PAIRS, TRIES), (HOPELESS, FEW))
        for one, other in pairs
        for row in _rows(one, other, attempts(one, other, tries), hope=pairs is PAIRS)
    ]


def attempts(one: Nat, other: Nat, tries: int) -> list[float | None]:
    """Seconds from the relayed connection to the direct one; None: it stayed relayed."""
    taken = []
    for number in range(tries):
        with Internet(loss=LOSS) as net:
            took = trio.run(_attempt, net, one, other)
            said = "relayed" if took is None else f"{took:.2f} s"
            say(f"{one.value} x {other.value} {number + 1}/{tries}: {said} (seed {net.seed})")
            taken.append(took)
    return taken


async def _attempt(net: Internet, one: Nat, other: Nat) -> float | None:
    async with open_pair(net, one, other) as pair:
        return await pair.dial(FLOOR_S)


def _rows(one: Nat, other: Nat, taken: list[float | None], *, hope: bool) -> list[Row]:
    name, runs = f"{one.value} x {other.value}", len(taken)
    times = [took for took in taken if took is not None]
    share = Row(f"{name}, direct", f"of {runs}", len(times), None, "", None, "", None, runs)
    if not hope:
        return [share]
    held = Row(
        f"{name}, direct",
        f"of {runs}",
        len(times),
        None,
        "",
        None,
        f">= {runs}",
        len(times) == runs,
        runs,
        f">= {runs}",
        len(times) == runs,
    )
    slowest = max(times, default=float("inf"))
    middle = statistics.median(times) if times else float("inf")
    return [
        held,
        Row(f"{name}, median", "s", middle, None, "", None, "", None, runs),
        Row(
            f"{name}, slowest",
            "s",
            slowest,
            None,
            "",
            None,
            f"<= {AIM_S:g} s",
            slowest <= FLOOR_S,
            runs,
            f"<= {FLOOR_S:g} s",
            slowest <= AIM_S,
        ),
    ]
