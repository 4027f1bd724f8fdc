"""A gateway, its orchestrator and two workers in a process of their own, which spend a budget in one PostgreSQL.

    python -m tests.tetherd.usage.spender URL NAME REQUESTS BUDGET

All requests are made at once; a line `settled` each goes to stdout as they are served and settled, at the end one with
what became of all of them.
"""

from __future__ import annotations

import sys
from collections import Counter

import trio

from p2p.errors import TetherError
from tests.tetherd.orchestrator.region import Region, region
from tetherd.orchestrator.quotas import Quotas
from tetherd.quotas.limits import Price
from tetherd.store import SqlStore, open_postgres

OUTPUT_TOKENS = 32
PRICE = Price(prompt=0, output=1_000_000)
"""A micro-unit a token of the answer, and every answer is as long as it may be: 32 of them."""


async def spend(there: Region, name: str, requests: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()

    async def ask(number: int) -> None:
        gateway = there.gateway
        try:
            grant = await gateway.granted(f"{name}-{number}")
            await trio.sleep(0.05)
            worker = there.worker(grant.worker)
            await gateway.settle(
                grant, "done", worker.receipt(gateway.node.person, grant, position=OUTPUT_TOKENS)
            )
        except TetherError as refusal:
            outcomes[refusal.code.name] += 1
        else:
            outcomes["served"] += 1
            print("settled", flush=True)

    async with trio.open_nursery() as nursery:
        for number in range(requests):
            nursery.start_soon(ask, number)
    return outcomes


async def main(url: str, name: str, requests: int, budget: int) -> None:
    store = SqlStore(await open_postgres(url, size=2), max_jobs=None)
    try:
        async with region(ledger=store, slots=200, quotas=Quotas(prices={"tiny": PRICE})) as there:
            await there.lend_key(there.gateway, "acme")
            await there.desk.limit_tenant("acme", {"budget": budget})
            print(dict(await spend(there, name, requests)), flush=True)
    finally:
        await store.close()


if __name__ == "__main__":
    trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
