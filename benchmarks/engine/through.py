"""The same engine through REST, gateway, orchestrator and worker, in turns with the engine called directly."""

from __future__ import annotations

import http.client
import json
import threading
import time
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import psutil
import trio

from benchmarks.engine.asking import GREEDY, Plan, judged
from benchmarks.report import Row, row, say
from cli.local_swarm import LocalNode, LocalSwarm, until
from inference.engine import Engine, Generation, Prompt
from inference.llama import LlamaSettings, open_llama

STREAMS: Final = (1, 8, 16)
TEXT: Final = "Once upon a time a fox and an owl met at a lantern, and one of them said to the other number"


def through(plan: Plan, runs: int) -> list[Row]:
    """Both engines with the settings that a worker takes by itself; each answer of both is streamed."""
    with LocalSwarm() as swarm:
        gateway = swarm.start("founder", roles="gateway,orchestrator").wait_ready()
        ticket = swarm.invite(gateway)
        worker = swarm.start("worker", ticket=ticket, roles="worker", models=[str(plan.path)]).wait_ready()
        served = until(lambda: gateway.control.get("/models"), "the worker to be known")
        asker = _Asker(gateway.url, str(served[0]["name"]), plan.tokens)
        return trio.run(_alternate, plan, asker, (gateway, worker), runs)


async def _alternate(plan: Plan, asker: _Asker, nodes: tuple[LocalNode, ...], runs: int) -> list[Row]:
    direct: dict[int, list[float]] = {count: [] for count in STREAMS}
    rest: dict[int, list[float]] = {count: [] for count in STREAMS}
    costs: dict[int, list[float]] = {count: [] for count in STREAMS}
    async with open_llama(plan.path, LlamaSettings()) as engine:
        for run in range(runs + 1):
            for count in STREAMS:
                texts = [f"{TEXT} {run} {number}:" for number in range(count)]
                direct[count].append(await _direct(engine, texts, plan.tokens))
                began_s = _cpu_s(nodes)
                rate, made = await trio.to_thread.run_sync(partial(asker.ask, texts))
                rest[count].append(rate)
                costs[count].append(1e3 * (_cpu_s(nodes) - began_s) / made)
            say(
                f"{plan.name} {run}/{runs}: direct {_last(direct)}, through {_last(rest)} tok/s, "
                f"daemons {'/'.join(f'{values[-1]:.2f}' for values in costs.values())} ms a token"
            )
    rows: list[Row] = []
    for count in STREAMS:
        name = f"{plan.name}, {count} streams through REST, gateway, orchestrator, worker"
        made_row = row(name, "tok/s", rest[count][1:], peer=direct[count][1:], peer_name="engine alone")
        rows.append(judged(made_row, 0.90, 0.97 if count == 1 else 0.95))
        rows.append(row(f"{name}: CPU time of both daemons a token", "ms", costs[count][1:]))
    return rows


async def _direct(engine: Engine, texts: list[str], tokens: int) -> float:
    """Tokens a second of all answers together, prompts included in the time."""
    made: list[int] = []

    async def one(text: str) -> None:
        prompt = await engine.tokenize(Prompt(text=text))
        async with engine.generate(Generation(prompt, tokens, GREEDY, exact=False)) as answer:
            made.append(sum([len(part.ids) async for part in answer]))

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for text in texts:
            nursery.start_soon(one, text)
    return sum(made) / (time.perf_counter() - began)


class _Asker:
    """A client of a gateway's shim; as llama-server's: a thread and a connection for each stream."""

    def __init__(self, url: str, model: str, tokens: int) -> None:
        self._address = urlsplit(url).netloc
        self._body = {
            "model": model,
            "max_tokens": tokens,
            "temperature": 0,
            "exact": False,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def ask(self, texts: list[str]) -> tuple[float, int]:
        """Returns tokens a second of all answers together, and how many tokens they had."""
        counts = [0] * len(texts)

        def one(index: int) -> None:
            counts[index] = self._stream(texts[index])

        threads = [threading.Thread(target=one, args=(index,)) for index in range(len(texts))]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - began), sum(counts)

    def _stream(self, text: str) -> int:
        """Read an answer to its end. Returns how many tokens its usage says."""
        connection = http.client.HTTPConnection(self._address, timeout=300)
        body = json.dumps({**self._body, "prompt": text})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        usage: dict[str, Any] = {}
        for line in connection.getresponse():
            if line.startswith(b"data: {"):
                usage = json.loads(line[6:]).get("usage") or usage
        connection.close()
        return int(usage["completion_tokens"])


def _cpu_s(nodes: tuple[LocalNode, ...]) -> float:
    """Of the daemons themselves, without the engine's process."""
    spent = [psutil.Process(node.pid).cpu_times() for node in nodes]
    return float(sum(one.user + one.system for one in spent))


def _last(taken: dict[int, list[float]]) -> str:
    return "/".join(f"{values[-1]:.0f}" for values in taken.values())
