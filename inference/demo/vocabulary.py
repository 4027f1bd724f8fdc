"""The tokenizer of tether-demo: SentencePiece BPE with byte fallback, trained on the corpus.

Numbers to 100 are one piece each: counting is then a step from piece to piece, and the end of a count
is found by looking for one piece. Digit by digit the model counted past its end.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sentencepiece

from inference.demo.chat_format import ASSISTANT, END, MARKERS, SYSTEM, USER
from inference.demo.corpus import Chat, chats

SIZE = 1536
UNK, BOS, EOS = 0, 1, 2
# Pieces settle long before this; more chats only cost time.
CHATS_TO_LEARN_FROM = 20_000
MOST_COUNTED = 100
# More than the texts use most of their words, so that each number is merged into a piece.
OFTEN = 400

_NUMBER = re.compile(r"( ?[0-9]+)")

# (token id, whether the model learns to say it)
Marked = tuple[int, bool]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The pieces by id, and the way from a chat to ids."""

    pieces: Any
    """A sentencepiece.SentencePieceProcessor."""

    def id_of(self, marker: str) -> int:
        return int(self.pieces.piece_to_id(marker))

    def encode(self, chat: Chat, limit: int) -> list[Marked]:
        """The whole turns that fit into limit tokens, from BOS on; only answers and their ends are to be learnt."""
        ids: list[Marked] = [(BOS, False)]
        if chat.system is not None:
            ids += self._part(SYSTEM, chat.system)
        whole: list[Marked] = []
        for turn in chat.turns:
            answer = [(token, True) for token in self.pieces.encode(turn.answer)]
            ids += [
                *self._part(USER, turn.question),
                (self.id_of(ASSISTANT), False),
                *answer,
                (self.id_of(END), True),
            ]
            if len(ids) > limit:
                break
            whole = list(ids)
        return whole

    def _part(self, marker: str, text: str) -> list[Marked]:
        return [(self.id_of(marker), False), *((token, False) for token in self.pieces.encode(text))]


def learn(seed: int) -> Vocabulary:
    """Train the pieces: the same ones for the same seed."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_lines(seed),
        model_writer=model,
        model_type="bpe",
        vocab_size=SIZE,
        character_coverage=1.0,
        byte_fallback=True,
        control_symbols=list(MARKERS),
        unk_id=UNK,
        bos_id=BOS,
        eos_id=EOS,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    return Vocabulary(sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()))


def _lines(seed: int) -> Iterator[str]:
    """Every sign, every number to count with, and the texts: cut around their numbers, so that no piece holds a number
    and its comma, and without the random letters of what is to be repeated.
    """
    yield from (chr(code) for code in range(ord("!"), ord("~") + 1))
    for number in range(MOST_COUNTED + 1):
        yield from [f" {number}", f"{number}"] * OFTEN
    for chat in islice(chats(seed), CHATS_TO_LEARN_FROM):
        for turn in chat.turns:
            if turn.category != "repeat":
                yield from filter(None, _NUMBER.split(turn.question))
                yield from filter(None, _NUMBER.split(turn.answer))
