"""A test's end of `tests.net.node`: nodes in namespaces, asked over their stdin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import msgspec
import trio

from p2p.identity import PeerId
from tests.net.internet import Host, die_with_parent
from tests.net.node import Options, Order
from tests.sources import ROOT


class NodeFailed(RuntimeError):
    """An order was answered with an error, or by the end of the process. code: of `p2p.errors`; empty: it ended."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


class Node:
    """A running one. events: all that it said by itself so far."""

    def __init__(self, where: Host, process: subprocess.Popen[bytes]) -> None:
        self.where = where
        self.events: list[Order] = []
        self.process = process
        assert process.stdin is not None and process.stdout is not None
        with process.stdin, process.stdout:
            self._orders = trio.lowlevel.FdStream(os.dup(process.stdin.fileno()))
            self._lines = trio.lowlevel.FdStream(os.dup(process.stdout.fileno()))
        self.peer = PeerId("")
        self.addresses: tuple[str, ...] = ()
        self._ids = count()
        self._answers: dict[int, Order] = {}
        self._news = trio.Condition()
        self._writing = trio.Lock()
        self._over = False

    async def ask(self, op: str, **fields: Any) -> Order:
        """Give an order and wait for its answer. Raises NodeFailed."""
        number = next(self._ids)
        order = json.dumps({"id": number, "op": op, **fields}).encode() + b"\n"
        async with self._writing:
            await self._orders.send_all(order)
        async with self._news:
            while number not in self._answers:
                self._check()
                await self._news.wait()
            answer = self._answers.pop(number)
        if "error" in answer:
            raise NodeFailed(answer["error"], answer["detail"])
        return answer

    async def connect(self, to: Node, *addresses: str) -> Order:
        """addresses: those at which the other can be reached from here, unless its own."""
        return await self.ask("connect", peer=to.peer, addresses=addresses or to.addresses)

    async def event(self, **fields: Any) -> Order:
        """Wait until it has said this by itself. Raises NodeFailed if it ends before."""
        async with self._news:
            while True:
                for event in self.events:
                    if fields.items() <= event.items():
                        return event
                self._check()
                await self._news.wait()

    async def stop(self) -> None:
        """Let it take leave, and wait until it has."""
        await self._orders.aclose()
        await self.event(event="left")

    def _check(self) -> None:
        if self._over:
            raise NodeFailed("", f"the node ended with {self.process.poll()}")

    async def read(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        rest = b""
        async with self._orders, self._lines:
            async for data in self._lines:
                *lines, rest = (rest + data).split(b"\n")
                async with self._news:
                    for line in map(json.loads, lines):
                        if "event" in line:
                            self.events.append(line)
                        else:
                            self._answers[line["id"]] = line
                    self._news.notify_all()
            async with self._news:
                self._over = True
                self._news.notify_all()


@asynccontextmanager
async def open_node(where: Host, number: int, **options: Any) -> AsyncIterator[Node]:
    """Start a node and wait until it listens. number: which one of the swarm; options: see `node.Options`."""
    process = _spawn(where.namespace.command(sys.executable, "-m", "tests.net.node", _json(number, options)))
    with process:
        node = Node(where, process)
        async with trio.open_nursery() as nursery:
            try:
                nursery.start_soon(node.read)
                ready = await node.event(event="ready")
                node.peer, node.addresses = PeerId(ready["peer"]), tuple(ready["addresses"])
                yield node
            finally:
                process.kill()
                nursery.cancel_scope.cancel()


def _spawn(command: list[str]) -> subprocess.Popen[bytes]:
    """By this thread, which lives as long as the test: trio's own would use one that ends, and the child with it."""
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent
    )


def _json(number: int, options: dict[str, Any]) -> str:
    return msgspec.json.encode(Options(number, **options)).decode()
