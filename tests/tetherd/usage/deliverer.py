"""An orchestrator's sweep and delivery in a process of their own, for as long as they are let live.

    python -m tests.tetherd.usage.deliverer LEDGER URL SECRET NOW

LEDGER: the URL of a PostgreSQL; NOW: ledger seconds at the start.
"""

from __future__ import annotations

import sys
import time

import trio

from tetherd.store import SqlStore, open_postgres
from tetherd.store.outbox import Outbox
from tetherd.usage.delivery import Delivery, Hook
from tetherd.usage.webhook import read_secret


async def main(ledger: str, url: str, secret: str, start: float) -> None:
    store = SqlStore(await open_postgres(ledger, size=2), max_jobs=None)
    began = trio.current_time()

    def now() -> float:
        return start + trio.current_time() - began

    delivery = Delivery(Hook(url, read_secret(secret)), Outbox(store.database), now=now, wall=time.time)
    async with trio.open_nursery() as nursery:
        await nursery.start(delivery.run)
        while True:
            await store.sweep(now=now())
            await trio.sleep(0.2)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:4], float(sys.argv[4]))
