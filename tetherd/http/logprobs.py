"""Log-probabilities in OpenAI's two shapes: a chat's list of tokens, and a completion's four parallel lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p2p.content import TokenLogprob


class LogprobsField:
    """The `logprobs` of one answer's choices, piece after piece; None where there are none."""

    def __init__(self, *, chat: bool) -> None:
        self._chat = chat
        self._offset = 0

    def of(self, told: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not told:
            return None
        return (
            {"content": [_chat_entry(one) for one in told], "refusal": None}
            if self._chat
            else self._lists(told)
        )

    def _lists(self, told: Sequence[TokenLogprob]) -> dict[str, Any]:
        """text_offset counts characters of the answer, from its beginning."""
        tokens = [_text(one.token) for one in told]
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token)
        return {
            "tokens": tokens,
            "token_logprobs": [one.logprob for one in told],
            "top_logprobs": [{_text(token): value for token, value in one.top} for one in told],
            "text_offset": offsets,
        }


def _chat_entry(one: TokenLogprob) -> dict[str, Any]:
    top = [_entry(token, value) for token, value in one.top]
    return {**_entry(one.token, one.logprob), "top_logprobs": top}


def _entry(token: bytes, value: float) -> dict[str, Any]:
    return {"token": _text(token), "logprob": value, "bytes": list(token)}


def _text(token: bytes) -> str:
    """A token may be part of a character: then its text is U+FFFD, and its bytes say what it is."""
    return token.decode("utf-8", "replace")
