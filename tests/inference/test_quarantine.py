"""Inputs that an engine keeps dying of, and engines that hang."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
import trio

from inference.engine import Generation
from inference.llama import LlamaEngine, LlamaSettings
from inference.quarantine import DEATHS, SUSPECTS, Quarantine, digest_of
from p2p.content import Sampling
from p2p.errors import ENGINE_FAILED, INPUT_QUARANTINED, TetherError
from tests.inference.test_llama import GREEDY, QUESTIONS, ask, loaded, prompt_of

ASKED = Generation((1, 2, 3), 16, GREEDY)


def test_an_input_is_the_same_wherever_it_is_resumed_and_another_with_another_prompt_or_sampling() -> None:
    same = [ASKED, replace(ASKED, resume=(7, 8)), replace(ASKED, max_tokens=9)]
    others = [replace(ASKED, prompt=(1, 2)), replace(ASKED, sampling=Sampling(seed=1))]
    assert len({digest_of(asked) for asked in same}) == 1
    assert len({digest_of(asked) for asked in (ASKED, *others)}) == 3


def test_three_deaths_quarantine_an_input_and_an_end_clears_its_name() -> None:
    quarantine = Quarantine()
    for _ in range(DEATHS - 1):
        quarantine.died_with([b"guilty", b"guilty", b"beside it"])
    quarantine.ended_well(b"beside it")
    assert b"guilty" not in quarantine
    quarantine.died_with([b"guilty", b"beside it"])
    assert b"guilty" in quarantine and b"beside it" not in quarantine


def test_what_is_remembered_is_bounded_and_a_repeated_suspect_is_kept_longest() -> None:
    quarantine = Quarantine()
    quarantine.died_with([b"guilty"])
    for number in range(SUSPECTS - 1):
        quarantine.died_with([b"%d" % number])
    quarantine.died_with([b"guilty"])
    quarantine.died_with([b"one more"])
    quarantine.died_with([b"guilty"])
    assert b"guilty" in quarantine


async def _die_with(engine: LlamaEngine, prompt: tuple[int, ...], number: int) -> TetherError:
    with pytest.raises(TetherError) as failed:
        async with engine.generate(Generation(prompt, 48, GREEDY)) as answer:
            async for _ in answer:
                assert engine.process_id is not None
                os.kill(engine.process_id, number)
    return failed.value


async def _ask_patiently(engine: LlamaEngine, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """The next process may still be loading."""
    with trio.fail_after(60):
        while True:
            try:
                return (await ask(engine, prompt, max_tokens=4))[0]
            except TetherError as error:
                assert error.code is ENGINE_FAILED


async def test_an_input_that_killed_three_engines_is_refused_and_others_are_served() -> None:
    async with loaded(LlamaSettings(slots=2, max_tokens_per_second=50)) as engine:
        prompt, other = await prompt_of(engine, QUESTIONS[0]), await prompt_of(engine, QUESTIONS[4])
        for _ in range(DEATHS):
            assert (await _die_with(engine, prompt, signal.SIGKILL)).code is ENGINE_FAILED
            assert await _ask_patiently(engine, other)
        with pytest.raises(TetherError) as refused:
            await ask(engine, prompt)
        assert refused.value.code is INPUT_QUARANTINED
        assert (await ask(engine, other, max_tokens=4))[0]


async def test_an_engine_that_hangs_is_killed_and_the_next_one_serves() -> None:
    async with loaded(LlamaSettings(slots=2, max_tokens_per_second=50, hang_s=2.0)) as engine:
        prompt = await prompt_of(engine, QUESTIONS[0])
        hung = engine.process_id
        assert (await _die_with(engine, prompt, signal.SIGSTOP)).code is ENGINE_FAILED
        assert await _ask_patiently(engine, prompt)
        assert engine.process_id != hung


async def test_an_engine_that_is_only_held_back_by_its_owner_is_left_alone() -> None:
    async with loaded(LlamaSettings(slots=2, max_tokens_per_second=0.4, hang_s=2.0)) as engine:
        prompt, process = await prompt_of(engine, QUESTIONS[0]), engine.process_id
        assert len((await ask(engine, prompt, max_tokens=3))[0]) == 3
        assert engine.process_id == process
