"""What the digests of a prompt's beginnings say, and to whom."""

from __future__ import annotations

from msgspec.structs import replace

from p2p.content import ChatMessage, SealedInput, Tool
from p2p.messages import MAX_PREFIXES, PREFIX_BYTES
from tetherd.gateway.prefixes import prefixes_of

SECRET = b"s" * 32
SYSTEM = ChatMessage("system", "You answer in rhymes. " * 20)


def chat(*turns: str) -> SealedInput:
    return SealedInput(b"k", (SYSTEM, *(ChatMessage("user", turn) for turn in turns)))


def test_two_requests_share_the_digests_of_what_they_share() -> None:
    one = prefixes_of(SECRET, "demo", chat("a", "b"))
    other = prefixes_of(SECRET, "demo", chat("a", "c", "d"))
    assert one[:2] == other[:2] and not set(one[2:]) & set(other[2:])
    assert all(len(digest) == PREFIX_BYTES for digest in one)


def test_another_secret_model_or_set_of_tools_has_other_digests() -> None:
    asked = chat("a")
    known = set(prefixes_of(SECRET, "demo", asked))
    for digests in (
        prefixes_of(b"t" * 32, "demo", asked),
        prefixes_of(SECRET, "other", asked),
        prefixes_of(SECRET, "demo", replace(asked, tools=(Tool("now"),))),
    ):
        assert not known & set(digests)


def test_a_long_conversation_keeps_its_first_and_its_last_beginnings() -> None:
    turns = [str(number) for number in range(30)]
    digests = prefixes_of(SECRET, "demo", chat(*turns))
    assert len(digests) == MAX_PREFIXES
    assert digests[0] == prefixes_of(SECRET, "demo", chat())[0]
    assert digests[-1] in prefixes_of(SECRET, "demo", chat(*turns, "and then"))


def test_a_text_has_a_digest_at_each_doubling_and_a_short_one_none() -> None:
    def text(words: str) -> tuple[bytes, ...]:
        return prefixes_of(SECRET, "demo", SealedInput(b"k", prompt=words))

    assert text("short") == ()
    assert len(text("x" * 1024)) == 3
    assert text("x" * 1024 + "y")[:3] == text("x" * 1024 + "z")[:3]
