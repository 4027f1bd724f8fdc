"""What a worker tells whoever counts it."""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

RATE_WINDOW_S: Final = 60.0


class WorkerMetrics(Protocol):
    def requested(self, prompt_tokens: int) -> None:
        """A prompt was accepted."""

    def sampled(self, tokens: int) -> None:
        """Positions that this worker itself sampled: not those that a resumed answer brought along."""

    def slots(self, used: int, capacity: int) -> None: ...

    def first_token(self, seconds: float) -> None:
        """From the arrival of the request to the first tokens on their way."""

    def between_tokens(self, seconds: float) -> None:
        """The mean pause between the tokens of one chunk and the next."""

    def finished(self, outcome: str, seconds: float) -> None:
        """outcome: "stop", "length", or the code of the error that ended the attempt."""


class NoMetrics:
    """Counts nothing."""

    def requested(self, prompt_tokens: int) -> None:
        pass

    def sampled(self, tokens: int) -> None:
        pass

    def slots(self, used: int, capacity: int) -> None:
        pass

    def first_token(self, seconds: float) -> None:
        pass

    def between_tokens(self, seconds: float) -> None:
        pass

    def finished(self, outcome: str, seconds: float) -> None:
        pass


class Rate:
    """Tokens a second over the last minute. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque()

    def add(self, tokens: int, now_s: float) -> None:
        second = int(now_s)
        if self._seconds and self._seconds[-1][0] == second:
            tokens += self._seconds.pop()[1]
        self._seconds.append((second, tokens))
        self._forget(now_s)

    def per_second(self, now_s: float) -> float:
        self._forget(now_s)
        return sum(tokens for _, tokens in self._seconds) / RATE_WINDOW_S

    def _forget(self, now_s: float) -> None:
        while self._seconds and self._seconds[0][0] <= now_s - RATE_WINDOW_S:
            self._seconds.popleft()
