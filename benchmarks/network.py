"""What the network costs: the same engine, called directly and through shim, gateway, orchestrator and worker."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from benchmarks.random_model import write_random_model
from benchmarks.report import Row, row, say
from cli.control import post_stream
from cli.local_swarm import LocalNode, LocalSwarm, until
from inference.engine import Engine, Generation, Prompt
from inference.llama import LlamaSettings, open_llama
from p2p.content import ChatMessage, Sampling

TOKENS = 128
QUESTION = "Tell me a story about a fox and a lantern."
ADDED_MS = 5.0
RATE = 0.95


@dataclass(frozen=True, slots=True)
class Timing:
    """first_ms: to the first text; rate: tokens a second from the first text to the last."""

    first_ms: float
    rate: float


def measure(runs: int) -> list[Row]:
    """One stream of a model of about 100M parameters, direct and through the network in turn."""
    with tempfile.TemporaryDirectory(prefix="tether-bench-") as folder, LocalSwarm() as swarm:
        model = Path(folder) / "random-100m.gguf"
        parameters = write_random_model(model, dim=768, layers=14, heads=12, ff=2048)
        say(f"a random model of {parameters / 1e6:.0f}M parameters, {model.stat().st_size / 1e6:.0f} MB")
        founder = swarm.start("founder", roles="gateway,orchestrator").wait_ready()
        ticket = swarm.invite(founder)
        swarm.start("worker", ticket=ticket, roles="worker", models=[str(model)]).wait_ready()
        served = until(lambda: founder.control.get("/models"), "the worker to be known")
        return trio.run(_alternate, model, founder, str(served[0]["name"]), runs)


async def _alternate(model: Path, founder: LocalNode, name: str, runs: int) -> list[Row]:
    direct: list[Timing] = []
    through: list[Timing] = []
    async with open_llama(model, LlamaSettings()) as engine:
        await _direct(engine)
        await trio.to_thread.run_sync(stream_timing, founder, name)
        for run in range(runs):
            direct.append(await _direct(engine))
            through.append(await trio.to_thread.run_sync(stream_timing, founder, name))
            say(f"network {run + 1}/{runs}: direct {direct[-1].rate:.0f}/s, through {through[-1].rate:.0f}/s")
    first = ([item.first_ms for item in through], [item.first_ms for item in direct])
    rate = ([item.rate for item in through], [item.rate for item in direct])
    return [
        row(
            "first token, one stream",
            "ms",
            first[0],
            peer=first[1],
            peer_name="engine direct",
            at_most_more=ADDED_MS,
        ),
        row(
            "tokens/s, one stream",
            "/s",
            rate[0],
            peer=rate[1],
            peer_name="engine direct",
            at_least_ratio=RATE,
        ),
    ]


async def _direct(engine: Engine) -> Timing:
    began = time.perf_counter()
    prompt = await engine.tokenize(Prompt(messages=(ChatMessage("user", QUESTION),)))
    generation = Generation(prompt, TOKENS, Sampling(temperature=0.0))
    seen: list[float] = []
    async with engine.generate(generation) as pieces:
        async for piece in pieces:
            if piece.text:
                seen.append(time.perf_counter())
    return _timing(began, seen)


def stream_timing(founder: LocalNode, name: str) -> Timing:
    """One stream of TOKENS through the network."""
    began = time.perf_counter()
    return _timing(began, [time.perf_counter() for _ in _texts(founder, name)])


def _texts(founder: LocalNode, name: str) -> Iterator[str]:
    body = {
        "model": name,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "stream": True,
    }
    with post_stream(founder.url, "/v1/chat/completions", body) as events:
        for event in events:
            for choice in event["choices"]:
                if choice["delta"].get("content"):
                    yield choice["delta"]["content"]


def _timing(began: float, seen: list[float]) -> Timing:
    return Timing((seen[0] - began) * 1e3, (TOKENS - 1) / (seen[-1] - seen[0]))
