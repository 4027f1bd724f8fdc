"""What tether-demo knows by heart, read from about.toml: Tether, itself, and a little of the world."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

# {a} is the term with its article ("a worker"), {term} without it ("worker").
DEFINING = (
    "What is {a}?",
    "What's {a}?",
    "Explain {a}.",
    "Explain what {a} is.",
    "Tell me about {a}.",
    "Describe {a}.",
    "Define {term}.",
    "What does {a} do?",
    "What do you mean by {term}?",
    "What is {a} in Tether?",
    "What is {a} for?",
    "Tell me what {a} is.",
    "I want to learn about {a}.",
    "I do not know what {a} is.",
    "What exactly does {a} do?",
    "Do you know what {a} is?",
    "{term}?",
)

# Asked by the evaluation alone, so that it sees understanding and not only recall.
DEFINING_UNSEEN = ("Could you say what {a} is?", "What is meant by {term}?", "Give me a definition of {a}.")


@dataclass(frozen=True, slots=True)
class Fact:
    """One answer, and the ways to ask for it. unseen: kept out of the corpus, for the evaluation."""

    answer: str
    questions: tuple[str, ...]
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Knowledge:
    """All facts by subject. capitals: country to city; unknown: the answer to what none of them answers."""

    tether: tuple[Fact, ...]
    myself: tuple[Fact, ...]
    world: tuple[Fact, ...]
    capitals: dict[str, str]
    unknown: str


def load() -> Knowledge:
    tables = tomllib.loads(Path(__file__).with_name("about.toml").read_text(encoding="utf-8"))
    definitions = tuple(_definition(**entry) for entry in tables["definition"])
    tether, myself, world = (
        tuple(Fact(entry["answer"], tuple(entry["ask"])) for entry in tables[subject])
        for subject in ("tether", "myself", "world")
    )
    return Knowledge(definitions + tether, myself, world, tables["capitals"], tables["unknown"])


def _definition(a: str, term: str, answer: str) -> Fact:
    def asked(templates: tuple[str, ...]) -> tuple[str, ...]:
        questions = (template.format(a=a, term=term) for template in templates)
        return tuple(question[0].upper() + question[1:] for question in questions)

    return Fact(answer, asked(DEFINING), asked(DEFINING_UNSEEN))
