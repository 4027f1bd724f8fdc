"""Engines that die in every way there is: whoever waits is told at once, the next process serves, the daemon is well.

The processes are real; each death is made from outside, as the kernel or a failed assertion makes it.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from inference import engine_link, llama
from inference.demo import MODEL_PATH
from inference.engine import Generation, Prompt
from inference.llama import LlamaEngine, LlamaSettings, open_llama
from inference.quarantine import DEATHS, Quarantine, digest_of_prompt
from inference.restarts import FIRST_PAUSE_S, LAST_PAUSE_S, Restarts
from p2p.content import ChatMessage, Tool
from p2p.errors import ENGINE_FAILED, INPUT_QUARANTINED, TetherError
from tests.inference.test_llama import GREEDY, QUESTIONS, ask, prompt_of

SLOW = LlamaSettings(slots=2, max_tokens_per_second=50, exact="off", hang_s=2.0)
HUGE = Prompt(text="a b " * (4 << 20))


@asynccontextmanager
async def loaded(quarantine: Quarantine | None = None) -> AsyncIterator[LlamaEngine]:
    async with open_llama(MODEL_PATH, SLOW, quarantine=quarantine) as engine:
        yield engine


def pid(engine: LlamaEngine) -> int:
    assert engine.process_id is not None
    return engine.process_id


async def wait_up(engine: LlamaEngine, other_than: int) -> None:
    """Until the next process serves."""
    with trio.fail_after(60):
        while True:
            try:
                await engine.tokenize(Prompt(text="ping"))
            except TetherError as error:
                assert error.code is ENGINE_FAILED
            else:
                assert pid(engine) != other_than
                return


def starve(process: int) -> None:
    """Not a byte more for it: the next allocation fails."""
    resource.prlimit(process, resource.RLIMIT_AS, (1 << 20, 1 << 20))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS])
async def test_a_process_that_is_killed_or_aborts_fails_its_answers_at_once(number: signal.Signals) -> None:
    async with loaded() as engine:
        prompt, first = await prompt_of(engine, QUESTIONS[0]), pid(engine)
        with pytest.raises(TetherError) as failed, trio.fail_after(30):
            async with engine.generate(Generation(prompt, 48, GREEDY)) as answer:
                async for _ in answer:
                    os.kill(first, number)
        assert failed.value.code is ENGINE_FAILED and failed.value.code.retryable
        await wait_up(engine, first)
        assert (await ask(engine, prompt, max_tokens=4))[0]


async def test_a_process_without_memory_fails_what_it_has_and_the_next_one_serves() -> None:
    async with loaded() as engine:
        first = pid(engine)
        starve(first)
        with pytest.raises(TetherError) as failed, trio.fail_after(60):
            await engine.tokenize(HUGE)
        assert failed.value.code is ENGINE_FAILED
        await wait_up(engine, first)


async def test_the_kernel_ends_an_engine_before_its_daemon() -> None:
    async with loaded() as engine:
        own, its = (
            int(Path(f"/proc/{name}/oom_score_adj").read_text())  # noqa: ASYNC240 it is no disk
            for name in ("self", pid(engine))
        )
        assert its >= 800 > own


async def test_an_engine_that_hangs_over_a_count_is_killed_as_well() -> None:
    async with loaded() as engine:
        first = pid(engine)
        os.kill(first, signal.SIGSTOP)
        with pytest.raises(TetherError) as failed, trio.fail_after(60):
            await engine.tokenize(Prompt(text="hello"))
        assert failed.value.code is ENGINE_FAILED
        await wait_up(engine, first)


async def test_an_input_that_kills_while_it_is_counted_is_refused_after_three_deaths() -> None:
    async with loaded() as engine:
        guilty = Prompt(messages=(ChatMessage("user", "guilty"),))
        for _ in range(DEATHS):
            first = pid(engine)
            os.kill(first, signal.SIGSTOP)
            async with trio.open_nursery() as nursery:

                async def count() -> None:
                    with pytest.raises(TetherError):
                        await engine.tokenize(guilty)

                nursery.start_soon(count)
                await trio.testing.wait_all_tasks_blocked()
                os.kill(first, signal.SIGKILL)
            await wait_up(engine, first)
        with pytest.raises(TetherError) as refused:
            await engine.tokenize(guilty)
        assert refused.value.code is INPUT_QUARANTINED


async def test_what_an_engine_died_of_is_known_to_the_next_one_of_the_model() -> None:
    quarantine, prompt = Quarantine(), (1, 2, 3)
    for deaths in (DEATHS - 1, 1):
        async with loaded(quarantine) as engine:
            for _ in range(deaths):
                first = pid(engine)
                with pytest.raises(TetherError):
                    async with engine.generate(Generation(prompt, 48, GREEDY)) as answer:
                        os.kill(first, signal.SIGKILL)
                        async for _ in answer:
                            pass
                await wait_up(engine, first)
    async with loaded(quarantine) as engine:
        with pytest.raises(TetherError) as refused:
            await ask(engine, prompt)
        assert refused.value.code is INPUT_QUARANTINED


def started_and(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Every engine process has something happen to it before its first command."""
    start = llama._start_process

    async def start_and_act(program: llama.Program) -> trio.Process:
        process = await start(program)
        act(process.pid)
        return process

    monkeypatch.setattr(llama, "_start_process", start_and_act)


async def test_a_load_that_is_killed_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    started_and(monkeypatch, lambda process: os.kill(process, signal.SIGKILL))
    with pytest.raises(TetherError, match="memory runs out") as failed:
        async with loaded():
            raise AssertionError("it was loaded")
    assert failed.value.code is ENGINE_FAILED


async def test_a_load_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_link, "LOAD_SILENCE_S", 1.0)
    started_and(monkeypatch, lambda process: os.kill(process, signal.SIGSTOP))
    with pytest.raises(TetherError, match="it hung") as failed:
        async with loaded():
            raise AssertionError("it was loaded")
    assert failed.value.code is ENGINE_FAILED


async def test_a_load_tells_how_far_it_is() -> None:
    told: list[float] = []
    async with open_llama(MODEL_PATH, SLOW, told=told.append) as engine:
        assert told == sorted(told) and len(told) > 10
        assert (told[0], told[-1]) == (0.0, 1.0)
        assert 0 < engine.info.tokens_per_second <= 50


def test_pauses_double_while_processes_die_young_and_begin_anew_after_a_long_life() -> None:
    restarts = Restarts()
    pauses = [restarts.pause_s(0.0) for _ in range(10)]
    assert pauses[:4] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S, 8 * FIRST_PAUSE_S]
    assert pauses[-1] == LAST_PAUSE_S
    assert restarts.pause_s(LAST_PAUSE_S + 1) == FIRST_PAUSE_S


@given(st.lists(st.floats(0, 1e6), max_size=30))
def test_no_pause_is_shorter_than_the_first_or_longer_than_the_last(lives: list[float]) -> None:
    restarts = Restarts()
    assert all(FIRST_PAUSE_S <= restarts.pause_s(lived_s) <= LAST_PAUSE_S for lived_s in lives)


def test_prompts_are_told_apart_by_all_that_is_rendered() -> None:
    prompts = (
        Prompt(text="a"),
        Prompt(messages=(ChatMessage("user", "a"),)),
        Prompt(messages=(ChatMessage("system", "a"),)),
        Prompt(messages=(ChatMessage("user", "a"),), tools=(Tool("b"),)),
    )
    assert len({digest_of_prompt(prompt) for prompt in prompts}) == len(prompts)
