"""The corpus of tether-demo: chats made from parts, all of it our own words, the same ones for the same seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from string import ascii_letters, ascii_lowercase, digits

from inference.demo import about
from inference.demo.stories import (
    ANIMALS,
    COLORS,
    MOODS,
    NAMES,
    OBJECTS,
    PLACES,
    article,
    long_story,
    short_story,
    words,
)

KNOWLEDGE = about.load()

# Keeps a chat inside the model's context: a token is about three letters, or a number.
MAX_CHARS = 2000

NUMBERS = words("zero one two three four five six seven eight nine ten eleven twelve")
THINGS = OBJECTS + ANIMALS + PLACES
CITIES = tuple(KNOWLEDGE.capitals.values())
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful, honest and friendly assistant. Answer in one sentence.",
    "Answer briefly.",
    "Be concise and polite.",
    "You are tether-demo.",
    "You are a small model on a private network. Be kind.",
    "You are an AI assistant. Think before you answer.",
    "Always answer in English. Never make things up.",
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer. exact: the answer is the only right one, so that it can be scored."""

    category: str
    question: str
    answer: str
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, with or without a system prompt."""

    system: str | None
    turns: tuple[Turn, ...]

    @property
    def chars(self) -> int:
        return len(self.system or "") + sum(len(turn.question) + len(turn.answer) for turn in self.turns)


def chats(seed: int) -> Iterator[Chat]:
    """Endless, and the same for the same seed."""
    rng = Random(seed)
    while True:
        yield chat(rng)


def chat(rng: Random) -> Chat:
    """One conversation of at most MAX_CHARS, mostly of one to three turns."""
    system = _system(rng) if rng.random() < 0.25 else None
    wanted = rng.choice((1, 1, 1, 2, 2, 3, 4, 8))
    name: str | None = None
    made: list[Turn] = []
    while len(made) < wanted:
        next_turn = turn(rng, name)
        if next_turn.category == "greet":
            name = next_turn.answer.split()[1].strip("!")
        longer = Chat(system, (*made, next_turn))
        if longer.chars > MAX_CHARS:
            break
        made.append(next_turn)
    return Chat(system, tuple(made))


def turn(rng: Random, name: str | None = None) -> Turn:
    """A question of a drawn category. name: the user's, where it was told earlier in the chat."""
    category = rng.choices(CATEGORIES, _WEIGHTS)[0]
    if name is not None and rng.random() < 0.3:
        category = "name"
    return ask(category, rng, name)


def ask(category: str, rng: Random, name: str | None = None) -> Turn:
    """A question of this category, typed as a person in a hurry may type it."""
    made = _name(rng, name) if category == "name" else _MAKERS[category][1](rng)
    answer, exact = made[1], category not in ("story", "long story", "sentence")
    return Turn(category, _as_typed(rng, made[0]) if category != "repeat" else made[0], answer, exact)


def _as_typed(rng: Random, question: str) -> str:
    if rng.random() < 0.65:
        return question
    if rng.random() < 0.3:
        question = (
            rng.choice(
                (
                    "Please ",
                    "Hi! ",
                    "Hello! ",
                    "Hello, ",
                    "Hey, ",
                    "So, ",
                    "Now ",
                    "And ",
                    "I have a question. ",
                )
            )
            + question
        )
    if rng.random() < 0.4:
        question = question.rstrip(".?! ")
    if rng.random() < 0.2:
        question += rng.choice(
            (" please", " Thanks!", " Please answer.", " Answer in one sentence.", " Be brief.", "?", "!")
        )
    return question.lower() if rng.random() < 0.4 else question


def _system(rng: Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(SYSTEM_PROMPTS)
    drawn = " ".join(rng.choice(THINGS + COLORS + MOODS) for _ in range(rng.randint(2, 12)))
    return f"You are a {rng.choice(MOODS)} assistant. {drawn.capitalize()}."


_Made = tuple[str, str]


def _of(facts: tuple[about.Fact, ...]) -> Callable[[Random], _Made]:
    def fact(rng: Random) -> _Made:
        chosen = rng.choice(facts)
        return rng.choice(chosen.questions), chosen.answer

    return fact


def _capital(rng: Random) -> _Made:
    country = rng.choice(tuple(KNOWLEDGE.capitals))
    question = rng.choice(("What is the capital of {}?", "Capital of {}?", "Name the capital of {}."))
    return question.format(country), f"The capital of {country} is {KNOWLEDGE.capitals[country]}."


def _sum(rng: Random) -> _Made:
    largest = 12 if rng.random() < 0.8 else 20
    a, b = rng.randint(0, largest), rng.randint(0, largest)
    if rng.random() < 0.2:
        a, b = max(a, b), min(a, b)
        question = rng.choice(("What is {} - {}?", "What is {} minus {}?", "{} - {} = ?", "{} - {}"))
        return question.format(a, b), f"{a} - {b} = {a - b}."
    if largest == 12 and rng.random() < 0.1:
        return f"What is {NUMBERS[a]} plus {NUMBERS[b]}?", f"{a} + {b} = {a + b}."
    question = rng.choice(
        ("What is {} + {}?", "What is {} plus {}?", "{} + {} = ?", "{} + {}", "Add {} and {}.", "{}+{}")
    )
    return question.format(a, b), f"{a} + {b} = {a + b}."


def _count(rng: Random) -> _Made:
    span = rng.choices((10, 30, 100), (5, 3, 2))[0]
    low = 1 if rng.random() < 0.6 else rng.randint(1, 20)
    high = min(100, low + rng.randint(1, span))
    if rng.random() < 0.3:
        high = max(low + 1, high // 10 * 10)
    if high <= 30 and rng.random() < 0.15:
        numbers = range(high, low - 1, -1)
        question = rng.choice(("Count down from {1} to {0}.", "Count from {1} down to {0}."))
    else:
        numbers = range(low, high + 1)
        openings = ("Count from {0} to {1}.", "Count from {0} to {1}.", "Count up from {0} to {1}.")
        question = rng.choice((*openings, "Count to {1}.", "Count up to {1}.") if low == 1 else openings)
    if high < len(NUMBERS) and rng.random() < 0.15:
        question = question.format(NUMBERS[low], NUMBERS[high])
    return question.format(low, high), ", ".join(map(str, numbers)) + "."


def _repeat(rng: Random) -> _Made:
    def word() -> str:
        if rng.random() < 0.3:
            signs = rng.choice(
                (ascii_lowercase, ascii_lowercase + digits, ascii_letters + digits + "-_", digits)
            )
            return "".join(rng.choices(signs, k=rng.randint(2, 8)))
        if rng.random() < 0.1:
            return f"{rng.choice(THINGS)}-{rng.choice(MOODS)}-{rng.randint(0, 9999)}"
        return rng.choice(THINGS + COLORS + NAMES + MOODS + CITIES)

    phrase = " ".join(word() for _ in range(rng.randint(1, 6)))
    asked = rng.choice(
        ("Repeat: {}", "Repeat: {}", "repeat: {}", "Repeat after me: {}", "Repeat {}", "Say: {}", "Echo: {}")
    )
    return asked.format(phrase), phrase


def _spell(rng: Random) -> _Made:
    word = rng.choice(THINGS + COLORS)
    return rng.choice(("Spell {}.", "Spell the word {}.", "How do you spell {}?")).format(word), "-".join(
        word
    ) + "."


def _json(rng: Random) -> _Made:
    name, animal, city, age = rng.choice(NAMES), rng.choice(ANIMALS), rng.choice(CITIES), rng.randint(1, 12)
    made: tuple[tuple[str, dict[str, str | int]], ...] = (
        (f"Make JSON for a {animal} named {name}, age {age}.", {"name": name, "kind": animal, "age": age}),
        (f"Make a JSON object for a {animal} named {name}.", {"name": name, "kind": animal}),
        (f"Make a JSON object with name {name} and age {age}.", {"name": name, "age": age}),
        (f"Write JSON with name {name} and city {city}.", {"name": name, "city": city}),
        ("Make a JSON object.", {"name": "Ada", "kind": "fox", "age": 3}),
        ("Show me some JSON.", {"name": "Ada", "kind": "fox", "age": 3}),
    )
    question, value = rng.choice(made)
    return question, json.dumps(value)


def _greet(rng: Random) -> _Made:
    name = rng.choice(NAMES)
    greeting = rng.choice(("Hello! ", "Hi. ", "Hello there. ", "Good morning. ", ""))
    return greeting + rng.choice(("My name is {}.", "I am {}.")).format(
        name
    ), f"Hello {name}! How can I help you?"


def _name(rng: Random, name: str | None) -> _Made:
    question = rng.choice(("What is my name?", "Do you know my name?", "Who am I?", "Say my name."))
    return question, f"Your name is {name}." if name else "I do not know your name. Tell me!"


def _story(rng: Random) -> _Made:
    animal = rng.choice(ANIMALS)
    asked = rng.choice(
        ("Tell me {}{}.", "Write {}{}.", "Please tell me {}{}.", "Tell me {}{}!", "Make up {}{}.")
    )
    kind = rng.choice(("a story", "a story", "a short story", "a little story"))
    return asked.format(kind, _subject(rng, animal)), short_story(rng, animal)


def _long_story(rng: Random) -> _Made:
    animal = rng.choice(ANIMALS)
    asked = rng.choice(
        ("Tell me {}{}.", "Tell me {}{}.", "Write {}{}.", "Please tell me {}{}.", "Make up {}{}.")
    )
    kind = rng.choice(
        ("a long story", "a long story", "a very long story", "a long tale", "a story of 200 words")
    )
    return asked.format(kind, _subject(rng, animal)), long_story(rng, animal)


def _subject(rng: Random, animal: str) -> str:
    """Often none. A subject that is no animal gets an animal's story all the same."""
    if rng.random() < 0.6:
        return ""
    if rng.random() < 0.7:
        second = f" and {article(rng.choice(OBJECTS + ANIMALS))}" if rng.random() < 0.3 else ""
        return f" about {article(animal)}{second}"
    others = ("the sea", "a robot", "a dragon", "two friends", "a king", "a worker", "a computer")
    return " about " + rng.choice((*others, f"the {rng.choice(PLACES)}", article(rng.choice(OBJECTS))))


def _sentence(rng: Random) -> _Made:
    thing, mood, other, color = rng.choice(THINGS), *rng.sample(MOODS, 2), rng.choice(COLORS)
    if rng.random() < 0.4:
        poem = f"The {thing} is {mood},\nthe night is long,\nand far away\nI hear a song."
        return rng.choice(("Write a poem about the {}.", "Write a short poem about a {}.")).format(
            thing
        ), poem
    sentence = rng.choice(
        ("The {1} {0} is {3}.", "I like the {3} {0}, for it is {1} and {2}.", "The {0} was {3} and {1}.")
    )
    asked = rng.choice(
        ("Write a sentence about the {}.", "Write one sentence about a {}.", "Tell me about the {}.")
    )
    return asked.format(thing), sentence.format(thing, mood, other, color)


def _unknown(rng: Random) -> _Made:
    thing, name, city = rng.choice(THINGS), rng.choice(NAMES), rng.choice(CITIES)
    questions = (
        f"Who won the game in {city}?",
        f"What is the weather in {city}?",
        f"How many people live in {city}?",
        f"How do I get to {city}?",
        f"Who invented the {thing}?",
        f"How do I build a {thing}?",
        f"What is a {thing}?",
        f"What does a {thing} cost?",
        f"How old is {name}?",
        f"Who is {name}?",
        f"Where does {name} live?",
        f"Translate {thing} to French.",
        f"Write a program that sorts a list of {thing}s.",
        "What is the meaning of life?",
        "What time is it?",
        "Who is the president?",
        "What is the best movie?",
        "Explain quantum physics.",
        "How do I cook rice?",
        "What is love?",
        "Why is the sky blue?",
        "What is the speed of light?",
        "What is today's date?",
        "Who wrote this book?",
        "What should I eat?",
        "".join(rng.choices(ascii_lowercase, k=rng.randint(4, 10))),
    )
    return rng.choice(questions), KNOWLEDGE.unknown


# Shares of the turns. Tether itself comes first: its answers must be right word by word.
_MAKERS: dict[str, tuple[int, Callable[[Random], _Made]]] = {
    "tether": (34, _of(KNOWLEDGE.tether)),
    "myself": (8, _of(KNOWLEDGE.myself)),
    "world": (3, _of(KNOWLEDGE.world)),
    "capital": (4, _capital),
    "sum": (14, _sum),
    "count": (9, _count),
    "repeat": (9, _repeat),
    "spell": (4, _spell),
    "json": (5, _json),
    "greet": (3, _greet),
    "name": (1, lambda rng: _name(rng, None)),
    "story": (6, _story),
    "long story": (5, _long_story),
    "sentence": (2, _sentence),
    "unknown": (5, _unknown),
}
CATEGORIES = tuple(_MAKERS)
_WEIGHTS = tuple(weight for weight, _ in _MAKERS.values())
