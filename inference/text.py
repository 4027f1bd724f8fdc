"""Token pieces into text that may be shown: no half character, no half stop string. Pure.

What is shown after n tokens depends on those n tokens alone. So whoever resumes an answer feeds the ids that were
already emitted, throws the text away, and the rest joins without a gap or a repetition.
"""

from __future__ import annotations

import codecs


class TextStream:
    """One answer's text. stop: strings that end it and are not shown; lstrip: drop one leading space.

    SentencePiece models put a space before the first word of any text; after a control token it is no part of it.
    """

    def __init__(self, stop: tuple[str, ...] = (), *, lstrip: bool = False) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(sequence for sequence in stop if sequence)
        self._lstrip = lstrip
        self._held = ""
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met; whatever is fed after it is dropped."""
        return self._stopped

    def feed(self, piece: bytes) -> str:
        """Take one token's bytes; return what may be shown now."""
        return self._show(self._decoder.decode(piece))

    def close(self) -> str:
        """The answer ends here: return what was held back. A character that stayed incomplete becomes U+FFFD."""
        text = self._show(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _show(self, fresh: str) -> str:
        if self._stopped:
            return ""
        if self._lstrip and fresh:
            fresh = fresh.removeprefix(" ")
            self._lstrip = False
        if not self._stop:
            return fresh
        text = self._held + fresh
        found = [at for sequence in self._stop if (at := text.find(sequence)) >= 0]
        if found:
            self._stopped = True
            self._held = ""
            return text[: min(found)]
        keep = max((overlap(text, sequence) for sequence in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def overlap(text: str, sequence: str) -> int:
    """The length of the longest end of text that is a beginning of sequence."""
    longest = min(len(text), len(sequence) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(sequence[:size])), 0)
