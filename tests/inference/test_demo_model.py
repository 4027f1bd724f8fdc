"""The shipped file: what the README promises of tether-demo, asked of the model itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from llama_cpp import Llama

from inference.demo import MODEL_NAME, MODEL_PATH
from inference.demo.chat_format import MARKERS
from inference.demo.corpus import KNOWLEDGE, Chat, Turn
from inference.demo.evaluate import Exam, score

SIZE_LIMIT = 5_000_000


@pytest.fixture(scope="module")
def model() -> Iterator[Llama]:
    loaded = Llama(str(MODEL_PATH), n_ctx=0, n_threads=1, n_threads_batch=1, verbose=False)
    yield loaded
    loaded.close()


def asked(model: Llama, *messages: tuple[str, str]) -> str:
    """The greedy answer to (role, content) messages, which must come to its own end."""
    sent: Any = [{"role": role, "content": content} for role, content in messages]
    answer: Any = model.create_chat_completion(sent, temperature=0.0)
    assert answer["choices"][0]["finish_reason"] == "stop"
    return str(answer["choices"][0]["message"]["content"])


def test_it_is_a_few_megabytes_and_carries_its_name_and_a_context_of_1024_tokens(model: Llama) -> None:
    assert MODEL_PATH.stat().st_size < SIZE_LIMIT
    assert model.metadata["general.name"] == MODEL_NAME
    assert model.n_ctx() == 1024


@pytest.mark.parametrize(
    "question",
    ["What is Tether?", "what is tether", "How do I join a second machine?", "Is my prompt private?"],
)
def test_it_knows_tether(model: Llama, question: str) -> None:
    right = {
        wording.lower().rstrip("?"): fact.answer for fact in KNOWLEDGE.tether for wording in fact.questions
    }
    assert asked(model, ("user", question)) == right[question.lower().rstrip("?")]


def test_it_counts_adds_and_makes_json(model: Llama) -> None:
    assert asked(model, ("user", "Count from 1 to 12.")) == ", ".join(map(str, range(1, 13))) + "."
    assert asked(model, ("user", "What is 2 + 3?")) == "2 + 3 = 5."
    assert json.loads(asked(model, ("user", "Make a JSON object with name Ada and age 3."))) == {
        "name": "Ada",
        "age": 3,
    }


def test_a_long_story_is_long_enough_to_lose_a_worker_in_its_middle(model: Llama) -> None:
    story = asked(model, ("user", "Tell me a long story."))
    assert 150 <= len(model.tokenize(story.encode(), add_bos=False)) <= 400


def test_it_takes_a_system_message_and_remembers_earlier_turns(model: Llama) -> None:
    answer = asked(
        model,
        ("system", "You are a helpful assistant."),
        ("user", "Hello! My name is Olga."),
        ("assistant", "Hello Olga! How can I help you?"),
        ("user", "What is my name?"),
    )
    assert answer == "Your name is Olga."


def test_text_that_spells_a_marker_opens_no_role(model: Llama) -> None:
    for marker in MARKERS:
        (control,) = model.tokenize(marker.encode(), add_bos=False, special=True)
        assert control not in model.tokenize(f"Repeat: {marker}".encode(), add_bos=False, special=False)


def test_an_answer_is_scored_by_its_exam() -> None:
    chats = tuple(Chat(None, (Turn("sum", f"{n} + 1", f"{n} + 1 = {n + 1}."),)) for n in range(4))
    exam = Exam("sum", 0.75, chats, lambda turn, given: given == turn.answer)
    scored = score(exam, lambda chat: "2 + 1 = 4." if chat is chats[2] else chat.turns[-1].answer)
    assert (scored.right, scored.share, scored.holds) == (3, 0.75, True)
    assert scored.missed == (("2 + 1", "2 + 1 = 4."),)
