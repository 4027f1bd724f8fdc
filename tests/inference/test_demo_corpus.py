"""The corpus of the built-in model: always the same, well formed, whole, and inside the context."""

from __future__ import annotations

import json
import re
from itertools import islice, pairwise

import pytest
from llama_cpp import Llama

from inference.demo import MODEL_PATH
from inference.demo.chat_format import MARKERS
from inference.demo.corpus import CATEGORIES, KNOWLEDGE, MAX_CHARS, Chat, Turn, chats
from inference.demo.stories import DAYS


@pytest.fixture(scope="module")
def corpus() -> list[Chat]:
    return list(islice(chats(seed=7), 3000))


@pytest.fixture(scope="module")
def turns(corpus: list[Chat]) -> list[Turn]:
    return [turn for chat in corpus for turn in chat.turns]


def test_the_same_seed_makes_the_same_corpus_and_another_seed_another_one(corpus: list[Chat]) -> None:
    assert list(islice(chats(seed=7), 200)) == corpus[:200]
    assert list(islice(chats(seed=8), 200)) != corpus[:200]


def test_every_category_is_present(turns: list[Turn]) -> None:
    assert {turn.category for turn in turns} == set(CATEGORIES)


def test_every_question_and_answer_is_text_without_markers_or_loose_spaces(corpus: list[Chat]) -> None:
    for chat in corpus:
        assert chat.turns
        assert chat.chars <= MAX_CHARS
        for text in (chat.system, *(text for turn in chat.turns for text in (turn.question, turn.answer))):
            if text is None:
                continue
            assert text == text.strip() != ""
            assert not any(marker in text for marker in MARKERS)


def test_every_fact_about_tether_is_taught(turns: list[Turn]) -> None:
    taught = {turn.answer for turn in turns if turn.category == "tether"}
    assert taught == {fact.answer for fact in KNOWLEDGE.tether}


def test_no_question_about_tether_or_the_model_has_two_answers() -> None:
    asked: dict[str, str] = {}
    for fact in (*KNOWLEDGE.tether, *KNOWLEDGE.myself, *KNOWLEDGE.world):
        for question in (*fact.questions, *fact.unseen):
            assert asked.setdefault(question.lower(), fact.answer) == fact.answer, question


def test_the_evaluation_s_own_wordings_are_not_in_the_corpus(turns: list[Turn]) -> None:
    unseen = {question.lower().rstrip(".?") for fact in KNOWLEDGE.tether for question in fact.unseen}
    asked = [turn.question.lower() for turn in turns if turn.category == "tether"]
    assert unseen
    assert not [question for question in asked if any(wording in question for wording in unseen)]


def test_sums_are_right(turns: list[Turn]) -> None:
    sums = [turn.answer for turn in turns if turn.category == "sum"]
    for answer in sums:
        a, sign, b, result = re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)\.", answer).groups()  # type: ignore[union-attr]
        assert int(result) == (int(a) + int(b) if sign == "+" else int(a) - int(b))


def test_counts_go_one_by_one(turns: list[Turn]) -> None:
    for turn in turns:
        if turn.category == "count":
            numbers = [int(number) for number in turn.answer.strip(".").split(", ")]
            assert {abs(after - before) for before, after in pairwise(numbers)} == {1}


def test_objects_are_json_and_repetitions_are_what_was_asked_for(turns: list[Turn]) -> None:
    for turn in turns:
        if turn.category == "json":
            assert isinstance(json.loads(turn.answer), dict)
        if turn.category == "repeat":
            assert turn.question.endswith(f" {turn.answer}")


def test_a_name_is_remembered_only_where_it_was_told(corpus: list[Chat]) -> None:
    for chat in corpus:
        told: str | None = None
        for turn in chat.turns:
            if turn.category == "greet":
                told = turn.answer.removeprefix("Hello ").split("!")[0]
                assert told.lower() in turn.question.lower()
            if turn.category == "name":
                assert turn.answer == (
                    f"Your name is {told}." if told else "I do not know your name. Tell me!"
                )


def test_a_long_story_takes_every_day_in_turn_and_ends(turns: list[Turn]) -> None:
    for turn in turns:
        if turn.category == "long story":
            assert re.findall(r"On the (\w+) day", turn.answer) == list(DAYS)
            assert turn.answer.endswith("the best of friends.")


def test_no_chat_is_longer_than_the_shipped_model_s_context(corpus: list[Chat]) -> None:
    model = Llama(str(MODEL_PATH), vocab_only=True, verbose=False)
    try:
        context = int(model.metadata["llama.context_length"])
        for chat in corpus:
            texts = [
                chat.system or "",
                *(text for turn in chat.turns for text in (turn.question, turn.answer)),
            ]
            tokens = sum(len(model.tokenize(text.encode(), add_bos=False, special=False)) for text in texts)
            assert 1 + tokens + len(MARKERS) * len(texts) <= context
    finally:
        model.close()
