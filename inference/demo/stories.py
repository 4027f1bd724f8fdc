"""Small stories from parts: one paragraph, or a journey of five days that is long enough to watch."""

from __future__ import annotations

from random import Random


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = words("Ada Ben Cleo Dan Eva Finn Gia Hugo Iris Jon Kim Leo Mia Ned Olga Pip Quinn Rosa Sam Tess")
ANIMALS = words("fox owl bear cat dog mouse frog duck goat hen otter crow hare mole swan")
PLACES = words("forest village harbor garden castle meadow river mountain market school library island")
OBJECTS = words("lantern rope map key drum kite boat book bell coin basket ladder")
MOODS = words("brave kind clever sleepy tiny curious gentle proud quiet hungry")
COLORS = words("red blue green yellow white black brown orange")
WEATHER = (
    "rain began to fall",
    "the wind grew strong",
    "the sun went down",
    "a thick fog rolled in",
    "the snow came early",
)
# A fixed number of days: a model that picks the likeliest word still comes to the end.
DAYS = ("first", "second", "third", "fourth", "fifth")


def article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def short_story(rng: Random, animal: str) -> str:
    hero, friend = rng.sample(NAMES, 2)
    home, away = rng.sample(PLACES, 2)
    mood, other_mood = rng.sample(MOODS, 2)
    thing, color, weather = rng.choice(OBJECTS), rng.choice(COLORS), rng.choice(WEATHER)
    stranger = rng.choice(ANIMALS)
    sentences = (
        (
            f"Once upon a time there was a {mood} {animal} named {hero} who lived near the {home}.",
            f"In {article(other_mood)} {home} lived {hero}, a {mood} {animal}.",
            f"{hero} was a {mood} {animal} who loved the {home}.",
        ),
        (
            f"One morning {hero} found {article(color)} {thing} by the path.",
            f"One day {hero} lost {article(color)} {thing} and felt sad.",
            f"{hero} had {article(color)} {thing} and carried it everywhere.",
        ),
        (
            f"{article(other_mood).capitalize()} {stranger} named {friend} came by and asked about the {thing}.",
            f"{hero} met {friend}, and the two walked to the {away} together.",
            f'"Where are you going?" asked {friend}. "To the {away}," said {hero}.',
        ),
        (
            f"Then {weather}, and they had to hide.",
            f"Suddenly {weather}.",
            f"Before they could rest, {weather}.",
        ),
        (
            f"{hero} used the {thing} to help {friend} get home.",
            f"{friend} held the {thing} while {hero} found the way.",
            f"They shared the {thing} and were not afraid.",
        ),
        (
            "From that day on they were good friends.",
            "They laughed and went home happy.",
            f"And {hero} never forgot {friend}.",
        ),
    )
    return " ".join(rng.choice(variants) for variants in sentences)


def long_story(rng: Random, animal: str) -> str:
    hero, friend, *met = rng.sample(NAMES, 2 + len(DAYS))
    home, *stops = rng.sample(PLACES, 1 + len(DAYS))
    things = rng.sample(OBJECTS, 1 + len(DAYS))
    lost, color = things.pop(), rng.choice(COLORS)
    story = [
        f"Once upon a time there was a {rng.choice(MOODS)} {animal} named {hero} who lived near the {home}.",
        f"{hero} had {article(color)} {lost} and loved it more than anything.",
        f"But one night {rng.choice(WEATHER)}, and in the morning the {lost} was gone.",
        f'"I will find it," said {hero}, and {friend} the {rng.choice(ANIMALS)} came along.',
    ]
    for day, stop, stranger, thing in zip(DAYS, stops, met, things, strict=True):
        story += _day(rng, day, stop, stranger, thing, hero, friend, lost)
    story += [
        f"There, under an old tree, lay the {color} {lost}.",
        rng.choice((f"{hero} laughed, and {friend} danced.", f"{friend} laughed, and {hero} began to sing.")),
        f"They went home to the {home} and told everyone what they had seen.",
        "And from that day on they were the best of friends.",
    ]
    return " ".join(story)


def _day(
    rng: Random, day: str, stop: str, stranger: str, thing: str, hero: str, friend: str, lost: str
) -> list[str]:
    animal, mood = rng.choice(ANIMALS), rng.choice(MOODS)
    return [
        f"On the {day} day they came to the {stop}.",
        rng.choice(
            (
                f"{article(mood).capitalize()} {animal} named {stranger} gave them a {thing}.",
                f"They met {stranger}, {article(mood)} {animal}, who had a {thing}.",
                f"There {stranger} the {animal} showed them a {thing}.",
            )
        ),
        rng.choice(
            (
                f'"Have you seen the {lost}?" asked {hero}. "No," said {stranger}, "but go on."',
                f"Then {rng.choice(WEATHER)}, and {stranger} let them sleep by the fire.",
                f"{friend} was tired, but {hero} wanted to go on.",
            )
        ),
    ]
