"""What becomes of one request: which attempt is next, what has been emitted, when it is over. Pure.

    state      event                                        becomes    effect
    ---------  -------------------------------------------  ---------  --------------------------------------
    new        begin                                        placing    Place
    placing    Placed                                       opening    Open
    placing    Refused, and another try may help            pausing    Pause
    placing    Refused, otherwise or too often              ended      Fail
    pausing    Paused                                       placing    Place
    opening    Loads, the worker's model                    opening    Wait
    opening    Accepted                                     streaming  Announce
    opening,   Lost, the first time                         placing    Place, at once
    streaming  Lost, an attempt is left                     pausing    Pause
               Lost, none is left, or the client's fault    ended      Fail
    streaming  Tokens that go on where the last ones ended  streaming  Emit
    streaming  Tokens that were all emitted before          streaming  None
    streaming  Tokens after a gap, or beyond the bound      as Lost    as Lost
    streaming  Finished                                     ended      Finish
    any        Expired                                      ended      Fail

The next attempt goes on after the ids that were emitted, on a worker that did not fail this request, unless there is
no other: a worker that failed is better than none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, assert_never

from p2p.content import TokenLogprob
from p2p.errors import (
    CALL_LOST,
    CAPACITY,
    CONTEXT_EXCEEDED,
    DEADLINE,
    DRAINING,
    ENGINE_FAILED,
    FIELD_INVALID,
    FIELD_REQUIRED,
    FRAME_INVALID,
    INPUT_QUARANTINED,
    LEDGER_UNAVAILABLE,
    MODEL_NOT_FOUND,
    NO_ORCHESTRATOR,
    NO_WORKER,
    OUT_OF_RANGE,
    UNREACHABLE,
    WORKER_LOST,
    TetherError,
)
from p2p.identity import PeerId
from tetherd.gateway.answer import AttemptSummary
from tetherd.gateway.settings import GatewaySettings

State = Literal["new", "placing", "pausing", "opening", "streaming", "ended"]
FinishReason = Literal["stop", "length"]

CLIENT_FAULTS: Final = frozenset(
    {FIELD_REQUIRED, FIELD_INVALID, OUT_OF_RANGE, CONTEXT_EXCEEDED, INPUT_QUARANTINED}
)
PASSING_REFUSALS: Final = frozenset(
    {NO_ORCHESTRATOR, LEDGER_UNAVAILABLE, NO_WORKER, MODEL_NOT_FOUND, DRAINING}
)
"""What may be otherwise in a moment: an election, a new leader that does not know the workers yet.

CAPACITY is told at once, for the leader has waited for a slot already; but an answer that has begun waits on. So is
a worker's own, who had no room for the model, once there is no other worker.
"""
TELLING: Final = frozenset(
    {NO_ORCHESTRATOR, LEDGER_UNAVAILABLE, NO_WORKER, CAPACITY, DRAINING, ENGINE_FAILED, DEADLINE}
)
"""What tells the client more than that a worker was lost."""


@dataclass(frozen=True, slots=True)
class Placed:
    worker: PeerId
    region: str


@dataclass(frozen=True, slots=True)
class Refused:
    error: TetherError


@dataclass(frozen=True, slots=True)
class Paused:
    pass


@dataclass(frozen=True, slots=True)
class Loads:
    """The worker has the model not in memory yet, but percent of it."""

    percent: int


@dataclass(frozen=True, slots=True)
class Accepted:
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """ids stand at position in the whole answer; text may lag behind them."""

    ids: tuple[int, ...]
    position: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    finish: FinishReason


@dataclass(frozen=True, slots=True)
class Lost:
    """The attempt is over: the worker said so, broke the protocol, or is gone."""

    error: TetherError


@dataclass(frozen=True, slots=True)
class Expired:
    pass


Event = Placed | Refused | Paused | Loads | Accepted | Tokens | Finished | Lost | Expired


@dataclass(frozen=True, slots=True)
class Place:
    """Ask for a worker. exclude: those that failed; cause: the code of the last failure."""

    exclude: tuple[PeerId, ...] = ()
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True)
class Open:
    """Send the input to the placed worker. resume: all ids emitted so far."""

    resume: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    percent: int


@dataclass(frozen=True, slots=True)
class Announce:
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Emit:
    text: str
    ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    finish: FinishReason


@dataclass(frozen=True, slots=True)
class Fail:
    error: TetherError


Effect = Place | Pause | Open | Wait | Announce | Emit | Finish | Fail


class Dispatch:
    """One request. max_tokens: the most that its answer may have; draw: uniform in [0, 1), for the jitter."""

    def __init__(self, settings: GatewaySettings, max_tokens: int, draw: Callable[[], float]) -> None:
        self.state: State = "new"
        self.prompt_tokens = 0
        self._settings = settings
        self._max_tokens = max_tokens
        self._draw = draw
        self._ids: list[int] = []
        self._attempts: list[AttemptSummary] = []
        self._from = 0
        self._failed: dict[PeerId, None] = {}
        self._cause = ""
        self._refusals = 0
        self._full: TetherError | None = None

    @property
    def ids(self) -> tuple[int, ...]:
        """The answer so far."""
        return tuple(self._ids)

    @property
    def position(self) -> int:
        return len(self._ids)

    @property
    def attempts(self) -> tuple[AttemptSummary, ...]:
        """Every grant that was used, in order; the last one with the tokens it has brought by now."""
        if self._attempts and self.state in ("opening", "streaming"):
            return (*self._attempts[:-1], self._counted(""))
        return tuple(self._attempts)

    def begin(self) -> Place:
        assert self.state == "new"
        self.state = "placing"
        return Place()

    def step(self, event: Event) -> Effect | None:
        """Take an event of the shell's; returns what it has to do next. None: read on."""
        match event:
            case Placed(worker, region):
                self._expect("placing")
                return self._open(worker, region)
            case Refused(error):
                self._expect("placing")
                return self._refused(error)
            case Paused():
                self._expect("pausing")
                self.state = "placing"
                return Place(tuple(self._failed), self._cause)
            case Loads(percent):
                return Wait(percent) if self.state == "opening" else None
            case Accepted(prompt_tokens):
                return self._accepted(prompt_tokens)
            case Tokens():
                return self._emit(event)
            case Finished(finish):
                return self._finish(finish)
            case Lost(error):
                self._expect("opening", "streaming")
                return self._lost(error)
            case Expired():
                self._close_attempt(DEADLINE.name)
                return self._fail(TetherError(DEADLINE, "The request was not answered in time."))
            case _:
                assert_never(event)

    # ── Placing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _open(self, worker: PeerId, region: str) -> Open:
        self.state = "opening"
        self._refusals = 0
        self._from = len(self._ids)
        self._attempts.append(AttemptSummary(worker, region, 0))
        return Open(self.ids)

    def _refused(self, error: TetherError) -> Effect:
        self._refusals += 1
        allowed = self._settings.refusals_in_answer if self._ids else self._settings.refusals
        passing = error.code in PASSING_REFUSALS or (error.code is CAPACITY and bool(self._ids))
        if not passing or self._refusals >= allowed:
            return self._fail(error)
        if error.code is NO_WORKER and self._full is not None and not self._ids:
            return self._fail(self._full)
        if error.code is NO_WORKER:
            self._failed.clear()
        self.state = "pausing"
        return Pause(self._backoff(self._refusals - 1, error))

    # ── An attempt ───────────────────────────────────────────────────────────────────────────────────────────────

    def _accepted(self, prompt_tokens: int) -> Effect | None:
        if self.state != "opening":
            return self._lost(_broken("The worker accepted twice."))
        self.state = "streaming"
        self.prompt_tokens = prompt_tokens
        return Announce(prompt_tokens)

    def _emit(self, tokens: Tokens) -> Effect | None:
        if self.state != "streaming":
            return self._lost(_broken("The worker sent tokens before it accepted."))
        end = tokens.position + len(tokens.ids)
        if tokens.position == len(self._ids):
            if end > self._max_tokens:
                return self._lost(_broken(f"The worker went beyond {self._max_tokens} tokens."))
            self._ids += tokens.ids
            return Emit(tokens.text, tokens.ids, tokens.logprobs)
        if end <= len(self._ids):
            return None
        return self._lost(_broken(f"Position {tokens.position} came after {len(self._ids)}."))

    def _finish(self, finish: FinishReason) -> Effect:
        if self.state != "streaming":
            return self._lost(_broken("The worker finished before it accepted."))
        self._close_attempt("")
        self.state = "ended"
        return Finish(finish)

    def _lost(self, error: TetherError) -> Effect:
        failures = len(self._attempts)
        self._failed[self._attempts[-1].worker] = None
        self._cause = error.code.name
        self._close_attempt(self._cause)
        self._full = error if error.code is CAPACITY else None
        if is_clients_fault(error):
            return self._fail(error)
        if failures >= self._settings.attempts:
            return self._fail(_last_word(error, failures))
        if failures == 1:
            self.state = "placing"
            return Place(tuple(self._failed), self._cause)
        self.state = "pausing"
        return Pause(self._backoff(failures - 2, error))

    def _close_attempt(self, cause: str) -> None:
        if self._attempts and self.state in ("opening", "streaming"):
            self._attempts[-1] = self._counted(cause)

    def _counted(self, cause: str) -> AttemptSummary:
        last = self._attempts[-1]
        return AttemptSummary(last.worker, last.region, len(self._ids) - self._from, cause)

    def _fail(self, error: TetherError) -> Fail:
        self.state = "ended"
        return Fail(error)

    def _backoff(self, tries: int, error: TetherError) -> float:
        settings = self._settings
        longest_s: float = min(settings.backoff_cap_s, settings.backoff_base_s * 2.0**tries)
        return max(self._draw() * longest_s, min(error.retry_after_s or 0.0, settings.backoff_cap_s))

    def _expect(self, *states: State) -> None:
        assert self.state in states, f"{self.state} is not one of {states}"


def is_clients_fault(error: TetherError) -> bool:
    """Whether another worker would refuse as well. What is wrong with the resumed ids, a worker made wrong."""
    return error.code in CLIENT_FAULTS and error.field != "resume"


def _broken(detail: str) -> TetherError:
    return TetherError(FRAME_INVALID, detail)


def _last_word(error: TetherError, failures: int) -> TetherError:
    if error.code in TELLING:
        return error
    why = "went away" if error.code in (CALL_LOST, UNREACHABLE) else error.code.name
    return TetherError(
        WORKER_LOST, f"{failures} workers failed this request, the last one: {why}.", retry_after_s=1.0
    )
