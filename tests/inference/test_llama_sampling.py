"""Penalties, biases and schemas on the built-in model: exact wherever an answer is resumed, and never an abort."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import trio

from inference.engine import Generation
from inference.llama import LlamaEngine
from p2p.content import Sampling, TokenLogprob
from p2p.errors import FIELD_INVALID, TetherError
from tests.inference.test_llama import GREEDY, QUESTIONS, ask, loaded, prompt_of

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 1, "maxItems": 2},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }
)
WAYS = {
    "penalties": Sampling(
        temperature=0.8, seed=3, frequency_penalty=0.7, presence_penalty=0.4, repeat_penalty=1.2
    ),
    "greedy penalties": Sampling(temperature=0, frequency_penalty=0.9),
    "typical": Sampling(temperature=1.2, seed=4, typical_p=0.6),
    "bias": Sampling(temperature=0.9, seed=5, logit_bias=((40, 4.0), (300, -100.0))),
    "schema": Sampling(temperature=0.8, seed=6, json_schema=PERSON),
    "greedy schema": Sampling(temperature=0, json_schema=PERSON),
    "all": Sampling(
        temperature=0.9, seed=7, top_k=50, json_schema=PERSON, presence_penalty=0.3, logit_bias=((40, 2.0),)
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_the_answer_is_the_same_alone_in_company_and_resumed_anywhere(way: str) -> None:
    sampling = WAYS[way]
    async with loaded() as engine:
        prompts = [await prompt_of(engine, question) for question in QUESTIONS[:4]]
        alone = [await ask(engine, prompt, sampling, max_tokens=32) for prompt in prompts]
        together: dict[int, object] = {}

        async def keep(index: int) -> None:
            together[index] = await ask(engine, prompts[index], sampling, max_tokens=32)

        async with trio.open_nursery() as nursery:
            for index in range(len(prompts)):
                nursery.start_soon(keep, index)
        assert [together[index] for index in range(len(prompts))] == alone
        ids, text, finish = alone[1]
        for k in range(len(ids) + 1):
            rest, rest_text, rest_finish = await ask(
                engine, prompts[1], sampling, resume=ids[:k], max_tokens=32
            )
            assert (rest, rest_finish) == (ids[k:], finish)
            assert text.endswith(rest_text)


async def test_an_answer_keeps_to_its_schema() -> None:
    async with loaded() as engine:
        for seed in range(6):
            sampling = Sampling(temperature=1.0, seed=seed, json_schema=PERSON)
            _, text, finish = await ask(engine, await prompt_of(engine, "Hello!"), sampling, max_tokens=200)
            if finish == "stop":
                told = json.loads(text)
                assert list(told) == ["name", "age", "tags"]
                assert (
                    len(told["name"]) <= 8
                    and isinstance(told["age"], int)
                    and set(told["tags"]) <= {"red", "blue"}
                )


async def logprobs_of(
    engine: LlamaEngine, prompt: tuple[int, ...], sampling: Sampling, resume: tuple[int, ...] = ()
) -> tuple[tuple[int, ...], list[TokenLogprob]]:
    ids, told = resume, list[TokenLogprob]()
    async with engine.generate(Generation(prompt, 24, sampling, resume)) as answer:
        async for tokens in answer:
            assert len(tokens.logprobs) == len(tokens.ids)
            ids += tokens.ids
            told += tokens.logprobs
    return ids, told


async def test_every_token_tells_how_likely_it_was_and_what_else_was_whoever_is_beside_it() -> None:
    sampling = Sampling(temperature=0.9, seed=8, top_k=3, presence_penalty=0.5, logprobs=4)
    async with loaded() as engine:
        prompt = await prompt_of(engine, QUESTIONS[1])
        ids, told = await logprobs_of(engine, prompt, sampling)
        for one in told:
            likely = [value for _, value in one.top]
            assert len(likely) == 4 and likely == sorted(likely, reverse=True)
            assert sum(map(math.exp, likely)) <= 1.0 + 1e-9 and one.logprob <= likely[0] <= 0.0
        async with trio.open_nursery() as nursery:
            for question in QUESTIONS[:3]:
                nursery.start_soon(ask, engine, await prompt_of(engine, question), GREEDY)
            assert await logprobs_of(engine, prompt, sampling) == (ids, told)
        _, rest = await logprobs_of(engine, prompt, sampling, ids[:5])
        assert rest == told[5:]


async def test_the_greedy_token_is_the_likeliest_and_none_is_told_unasked() -> None:
    async with loaded() as engine:
        prompt = await prompt_of(engine, QUESTIONS[0])
        _, told = await logprobs_of(engine, prompt, Sampling(temperature=0, logprobs=1))
        assert told and all((one.token, one.logprob) == one.top[0] for one in told)
        _, alone = await logprobs_of(engine, prompt, Sampling(temperature=0, logprobs=0))
        assert [one.logprob for one in alone] == [one.logprob for one in told]
        assert all(one.top == () for one in alone)


async def test_a_bias_forbids_a_token_and_a_penalty_thins_repetition() -> None:
    async with loaded() as engine:
        prompt = await prompt_of(engine, QUESTIONS[0])
        plain, _, _ = await ask(engine, prompt)
        biased, _, _ = await ask(engine, prompt, Sampling(temperature=0, logit_bias=((plain[0], -100.0),)))
        assert plain[0] not in biased
        thinned, _, _ = await ask(
            engine, prompt, Sampling(temperature=0, presence_penalty=2.0, frequency_penalty=2.0)
        )
        assert len(set(thinned)) / len(thinned) > len(set(plain)) / len(plain)


ONLY_THE_BEST = {
    "top_k": Sampling(temperature=1.5, seed=9, top_k=1),
    "top_p": Sampling(temperature=1.5, seed=9, top_p=1e-6),
    "min_p": Sampling(temperature=1.5, seed=9, min_p=1.0),
    "temperature": Sampling(temperature=1e-4, seed=9),
}


async def test_each_way_to_cut_the_tail_leaves_the_greedy_answer_when_it_cuts_all_but_the_best() -> None:
    async with loaded() as engine:
        prompt = await prompt_of(engine, QUESTIONS[2])
        greedy = await ask(engine, prompt)
        assert await ask(engine, prompt, Sampling(temperature=1.5, seed=9)) != greedy
        for name, sampling in ONLY_THE_BEST.items():
            assert await ask(engine, prompt, sampling) == greedy, name


async def test_prompts_that_come_at_once_are_told_the_same_likelihoods_as_alone() -> None:
    sampling = Sampling(temperature=0.9, seed=8, logprobs=4)
    async with loaded() as engine:
        prompts = [await prompt_of(engine, question) for question in QUESTIONS[:4]]
        alone = [await logprobs_of(engine, prompt, sampling) for prompt in prompts]
        together: dict[int, object] = {}

        async def keep(index: int) -> None:
            together[index] = await logprobs_of(engine, prompts[index], sampling)

        async with trio.open_nursery() as nursery:
            for index in range(len(prompts)):
                nursery.start_soon(keep, index)
        assert [together[index] for index in range(len(prompts))] == alone


@pytest.mark.parametrize(
    ("sampling", "resume", "field"),
    [
        (Sampling(logit_bias=((10**6, 1.0),)), (), "logit_bias"),
        (Sampling(json_schema=PERSON), (40, 41, 42), "resume"),
        (Sampling(json_schema="{"), (), "response_format"),
        (Sampling(json_schema='{"pattern": "(("}'), (), "response_format"),
        (Sampling(json_schema='{"type": "array", "items": 7}'), (), "response_format"),
        (Sampling(json_schema='{"type": "nothing"}'), (), "response_format"),
        (Sampling(json_schema='{"properties": {"x": 1}}'), (), "response_format"),
    ],
    ids=["bias", "resume", "no json", "pattern", "items", "type", "property"],
)
async def test_what_cannot_be_sampled_by_is_refused_and_the_engine_lives(
    sampling: Sampling, resume: tuple[int, ...], field: str
) -> None:
    async with loaded() as engine:
        prompt = await prompt_of(engine, QUESTIONS[4])
        with pytest.raises(TetherError) as caught:
            await ask(engine, prompt, sampling, resume=resume)
        assert (caught.value.code, caught.value.field) == (FIELD_INVALID, field)
        assert await _still_answers(engine, prompt)


async def test_a_schema_of_a_thousand_ways_slows_nobody_down_for_good() -> None:
    wide: dict[str, Any] = {"anyOf": [{"type": "array", "items": {"enum": ["a", "b"]}}] * 200}
    async with loaded() as engine:
        prompt = await prompt_of(engine, QUESTIONS[4])
        ids, _, _ = await ask(
            engine, prompt, Sampling(temperature=0.7, seed=1, json_schema=json.dumps(wide)), max_tokens=16
        )
        assert ids
        assert await _still_answers(engine, prompt)


async def _still_answers(engine: LlamaEngine, prompt: tuple[int, ...]) -> bool:
    return bool((await ask(engine, prompt))[0])
