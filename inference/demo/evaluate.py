"""Asks tether-demo fresh questions of every kind, prints its scores, and exits with 1 if one is under its floor."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from llama_cpp import Llama

from inference.demo import MODEL_PATH
from inference.demo.corpus import KNOWLEDGE, SYSTEM_PROMPTS, Chat, Turn, ask, chat
from inference.demo.stories import ANIMALS, DAYS

Answer = Callable[[Chat], str]
"""Answers the last turn of a chat, whose own answer it does not see."""

QUESTIONS = 60
MAX_TOKENS = 420


@dataclass(frozen=True, slots=True)
class Exam:
    """Chats whose last turn is scored. floor: the share of right answers below which the model must not ship."""

    name: str
    floor: float
    chats: tuple[Chat, ...]
    passes: Callable[[Turn, str], bool]


@dataclass(frozen=True, slots=True)
class Score:
    exam: Exam
    right: int
    missed: tuple[tuple[str, str], ...]
    """Question and given answer."""

    @property
    def share(self) -> float:
        return self.right / len(self.exam.chats)

    @property
    def holds(self) -> bool:
        return self.share >= self.exam.floor


def main() -> None:
    parser = argparse.ArgumentParser(description="Score tether-demo and fail if it is under its floors.")
    parser.add_argument(
        "model", type=Path, nargs="?", default=MODEL_PATH, help="the GGUF (default: the shipped one)"
    )
    parser.add_argument("--misses", action="store_true", help="show every answer that was not right")
    options = parser.parse_args()
    answer = _llama(options.model)
    scores = []
    for exam in exams():
        scores.append(score(exam, answer))
        print(_row(scores[-1]), flush=True)
        if options.misses:
            print(*(f"    {question!r} -> {given!r}" for question, given in scores[-1].missed), sep="\n")
    sys.exit(0 if all(scored.holds for scored in scores) else 1)


def score(exam: Exam, answer: Answer) -> Score:
    right, missed = 0, []
    for asked in exam.chats:
        given = answer(asked)
        if exam.passes(asked.turns[-1], given):
            right += 1
        else:
            missed.append((asked.turns[-1].question, given))
    return Score(exam, right, tuple(missed))


def exams() -> Iterator[Exam]:
    """The same questions each time; none of them is drawn by the seed that the corpus is made from."""
    for category, floor in _FLOORS.items():
        rng = Random(f"evaluate {category}")
        yield Exam(category, floor, tuple(_single(ask(category, rng)) for _ in range(QUESTIONS)), _exact)
    unseen = [(fact.answer, question) for fact in KNOWLEDGE.tether for question in fact.unseen]
    yield Exam(
        "tether, new words",
        0.45,
        tuple(_single(Turn("tether", question, right)) for right, question in unseen),
        _exact,
    )
    system = Random("evaluate system")
    yield Exam("system prompt", 0.90, tuple(_with_system(system) for _ in range(QUESTIONS)), _exact)
    yield Exam("later in a chat", 0.85, tuple(_conversations("evaluate chat", QUESTIONS, 0)), _exact)
    yield Exam("far into the context", 0.80, tuple(_conversations("evaluate far", 20, 1500)), _exact)
    yield Exam("story", 0.90, _stories("Tell me a story"), _is_story)
    yield Exam("long story", 0.85, _stories("Tell me a long story"), _is_long_story)
    counts = (f"Count from 1 to {last}." for last in (25, 30, 40, 50, 60, 75, 80, 90, 99, 100))
    yield Exam("long count", 0.80, tuple(_single(_count(question)) for question in counts), _exact)


# Sums of 13 to 20 are among the sums; random letters are among what is to be repeated.
_FLOORS = {
    "tether": 0.95,
    "myself": 0.95,
    "world": 0.90,
    "capital": 0.90,
    "sum": 0.85,
    "count": 0.90,
    "repeat": 0.50,
    "spell": 0.85,
    "json": 0.90,
    "greet": 0.90,
    "name": 0.90,
    "unknown": 0.80,
}


def _llama(model: Path) -> Answer:
    engine = Llama(str(model), n_ctx=0, n_threads=1, n_threads_batch=1, verbose=False)

    def answer(asked: Chat) -> str:
        messages: list[Any] = [] if asked.system is None else [{"role": "system", "content": asked.system}]
        for turn in asked.turns:
            messages += [
                {"role": "user", "content": turn.question},
                {"role": "assistant", "content": turn.answer},
            ]
        made: Any = engine.create_chat_completion(messages[:-1], temperature=0.0, max_tokens=MAX_TOKENS)
        choice = made["choices"][0]
        # An answer that does not end is no answer.
        return str(choice["message"]["content"]) if choice["finish_reason"] == "stop" else ""

    return answer


def _single(turn: Turn) -> Chat:
    return Chat(None, (turn,))


def _with_system(rng: Random) -> Chat:
    return Chat(rng.choice(SYSTEM_PROMPTS), (ask(rng.choice(tuple(_FLOORS)), rng),))


def _conversations(seed: str, wanted: int, at_least_chars: int) -> Iterator[Chat]:
    """Chats of three turns and more that end in a question with one right answer."""
    found = 0
    for number in count():
        made = chat(Random(f"{seed} {number}"))
        if len(made.turns) >= 3 and made.chars >= at_least_chars and made.turns[-1].exact:
            yield made
            found += 1
        if found == wanted:
            return


def _stories(request: str) -> tuple[Chat, ...]:
    requests = [f"{request}.", f"Please {request[0].lower()}{request[1:]}!"]
    requests += [f"{request} about {'an' if animal[0] in 'aeiou' else 'a'} {animal}." for animal in ANIMALS]
    return tuple(_single(Turn("story", asked, "", exact=False)) for asked in requests)


def _count(question: str) -> Turn:
    last = int(question.split()[-1].strip("."))
    return Turn("count", question, ", ".join(map(str, range(1, last + 1))) + ".")


def _exact(turn: Turn, given: str) -> bool:
    return given.strip() == turn.answer


def _is_story(turn: Turn, given: str) -> bool:
    """Six sentences or so, about the animal that was asked for."""
    asked_for = [animal for animal in ANIMALS if f" {animal}." in turn.question]
    return 150 <= len(given) <= 500 and given.endswith(".") and all(animal in given for animal in asked_for)


def _is_long_story(turn: Turn, given: str) -> bool:
    """Every day in its order, and an end."""
    places = [given.find(f"On the {day} day") for day in DAYS]
    return -1 not in places and places == sorted(places) and given.endswith("the best of friends.")


def _row(scored: Score) -> str:
    verdict = "ok" if scored.holds else "UNDER ITS FLOOR"
    asked = len(scored.exam.chats)
    return (
        f"{scored.exam.name:<22}{scored.right:>4}/{asked:<4}{scored.share:>6.0%}"
        f"  floor {scored.exam.floor:.0%}  {verdict}"
    )


if __name__ == "__main__":
    main()
