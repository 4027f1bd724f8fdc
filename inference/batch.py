"""The continuous batch: requests join and leave between any two steps. One thread owns it; it knows no pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from inference.engine import Finish
from inference.engine_wire import Generate, Produced
from inference.forward import Abandoned, Forward, Rows
from inference.native import Model
from inference.pace import Pace
from inference.prefix_cache import PrefixCache, Wanted
from inference.recipe import EXACT_CHUNK, FAST_CHUNK
from inference.sampler import Sampler, log_probabilities
from inference.scheduler import Scheduler, Work
from inference.text import TextStream
from p2p.content import TokenLogprob
from p2p.errors import FIELD_INVALID, TetherError


@dataclass(slots=True)
class _Answer:
    """tokens: prompt and answer; first, end: where the answer starts in them and has to end; cached: of the prompt."""

    asked: Generate
    text: TextStream
    sampler: Sampler
    tokens: list[int]
    first: int
    end: int
    cached: int = 0


class Batch:
    """Answers in the making. chunk: prefill chunk in tokens of a request that is not exact; what a decode holds."""

    def __init__(self, model: Model, context: Forward, pace: Pace, *, slots: int, chunk: int) -> None:
        self._model = model
        self._context = context
        self._pace = pace
        self._cache = PrefixCache(slots)
        self._scheduler = Scheduler(slots, chunk, self, together=FAST_CHUNK)
        self._answers: dict[int, _Answer] = {}
        self._space_first = model.puts_space_first
        self._keeps_prefixes = model.keeps_prefixes
        self._stalled = False
        self._coming_in: frozenset[int] = frozenset()
        self._given_up: set[int] = set()

    @property
    def idle(self) -> bool:
        return self._scheduler.idle

    def wait_s(self) -> float:
        """How long the last step would have had to wait for the owner's limit; 0 if it did something."""
        return self._pace.wait_s() if self._stalled else 0.0

    def submit(self, asked: Generate) -> Iterator[Produced]:
        """Queue an answer, or end it at once where what it resumes after was already all of it.

        Raises TetherError(FIELD_INVALID) for ids that are not in the vocabulary: llama.cpp would give up on the batch;
        and as Sampler does.
        """
        if not all(0 <= token < self._model.vocabulary_size for token in (*asked.prompt, *asked.resume)):
            raise TetherError(FIELD_INVALID, "A token id is not in this model's vocabulary.", field="resume")
        sampler = Sampler(self._model, asked.sampling, asked.resume)
        first, tokens = len(asked.prompt), [*asked.prompt, *asked.resume]
        answer = _Answer(asked, self._text_of(asked), sampler, tokens, first, first + asked.max_tokens)
        if answer.text.stopped:
            sampler.close()
            yield self._produced(answer, (), "", "stop")
        elif len(tokens) >= answer.end:
            sampler.close()
            yield self._produced(answer, (), answer.text.close(), "length")
        else:
            self._answers[asked.request] = answer
            self._scheduler.submit(asked.request, len(answer.tokens), EXACT_CHUNK if asked.exact else None)

    def give_up(self, request: int) -> None:
        """From any thread: a request is about to leave, so this step need not begin with its prompt, nor go on with it.

        Should that be another step by now, it is done again.
        """
        self._given_up.add(request)
        if self._coming_in == {request}:
            self._context.abandon()

    def leave(self, request: int) -> None:
        """Drop an answer; its slot is free for the next step, and keeps what it holds until somebody needs it."""
        answer = self._answers.pop(request, None)
        if answer is not None:
            answer.sampler.close()
        slot = self._scheduler.leave(request)
        if slot is not None:
            self._cache.leave(slot)

    # ── Memory, as the scheduler asks for it ─────────────────────────────────────────────────────────────────────

    def choose(self, request: int, free: Sequence[int]) -> int:
        return self._cache.choose(self._wanted(request), free)

    def waits(self, request: int, slot: int) -> bool:
        return self._cache.awaited(self._wanted(request), slot)

    def begin(self, request: int, slot: int) -> int:
        wanted = self._wanted(request)
        found = self._cache.find(wanted, slot)
        if found.source != slot:
            self._context.copy(found.source, slot)
        self._context.keep(slot, found.length)
        self._cache.take(slot, wanted, found.length)
        answer = self._answers[request]
        answer.cached = min(found.length, answer.first)
        return found.length

    def _wanted(self, request: int) -> Wanted:
        answer = self._answers[request]
        scope = answer.asked.scope if self._keeps_prefixes else b""
        return Wanted(answer.tokens, scope, answer.asked.exact)

    # ── One step ─────────────────────────────────────────────────────────────────────────────────────────────────

    def step(self, now_s: float) -> list[Produced]:
        """Go one step on and tell what came of it; nothing where the pace does not allow a token yet."""
        step = self._scheduler.plan(self._pace.allowance(now_s))
        self._pace.spend(step.samples)
        self._stalled = not step.decode and not step.prefill
        # Decoding slots together, prompts apart: a mixed batch would be cut in two at the same cost anyway.
        produced = self._computed(step.decode) if step.decode else []
        given_up, self._given_up = self._given_up, set()
        if unwanted := [work for work in step.prefill if work.request in given_up]:
            self._undo(unwanted)
        if prefill := [work for work in step.prefill if work.request not in given_up]:
            self._coming_in = frozenset(work.request for work in prefill)
            try:
                produced += self._computed(prefill)
            finally:
                self._coming_in = frozenset()
        return produced

    def _computed(self, works: Sequence[Work]) -> list[Produced]:
        rows, drawing, exact = Rows(), list[_Answer](), False
        for work in works:
            answer = self._answers[work.request]
            tokens = answer.tokens[work.start : work.start + work.count]
            rows.add(work.slot, work.start, tokens, wanted=work.samples)
            exact = exact or answer.asked.exact
            if work.samples:
                drawing.append(answer)
        try:
            self._context.decode(rows, exact=exact)
        except Abandoned:
            self._undo(works)
            return []
        for work in works:
            self._cache.fill(work.slot, work.start + work.count)
        drawn = self._drawn(drawing)
        told = [self._logprobs(answer, index, drawn[index]) for index, answer in enumerate(drawing)]
        return list(map(self._take, drawing, drawn, told))

    def _undo(self, works: Sequence[Work]) -> None:
        for work in works:
            self._context.keep(work.slot, work.start)
        self._scheduler.undo(works)
        self._pace.spend(-sum(work.samples for work in works))

    def _drawn(self, answers: Sequence[_Answer]) -> list[int]:
        """The next token of each of those that the last decode was for, in its order."""
        if all(answer.sampler.takes_best for answer in answers):
            return self._context.best() if answers else []
        logits = self._context.logits
        return [answer.sampler.next(logits(index)) for index, answer in enumerate(answers)]

    def _logprobs(self, answer: _Answer, index: int, token: int) -> tuple[TokenLogprob, ...]:
        """Of a token that was just drawn, while the logits that it was drawn from are there."""
        count = answer.asked.sampling.logprobs
        if count < 0 or token < 0 or self._model.is_end(token):
            return ()
        own, top = log_probabilities(self._context.logits(index), token, count)
        piece = self._model.piece
        return (TokenLogprob(piece(token), own, tuple((piece(one), value) for one, value in top)),)

    def _take(self, answer: _Answer, token: int, logprobs: tuple[TokenLogprob, ...]) -> Produced:
        if token < 0 or self._model.is_end(token):
            return self._finished(answer, (), answer.text.close(), "stop")
        answer.tokens.append(token)
        text = answer.text.feed(self._model.piece(token))
        if answer.text.stopped:
            return self._finished(answer, (token,), text, "stop", logprobs)
        if len(answer.tokens) >= answer.end:
            return self._finished(answer, (token,), text + answer.text.close(), "length", logprobs)
        return self._produced(answer, (token,), text, None, logprobs)

    def _finished(
        self,
        answer: _Answer,
        ids: tuple[int, ...],
        text: str,
        finish: Finish,
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Produced:
        self.leave(answer.asked.request)
        return self._produced(answer, ids, text, finish, logprobs)

    def _produced(
        self,
        answer: _Answer,
        ids: tuple[int, ...],
        text: str,
        finish: Finish | None,
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Produced:
        position = len(answer.tokens) - answer.first - len(ids)
        cached = answer.cached if finish else 0
        return Produced(answer.asked.request, ids, position, text, finish, logprobs, cached)

    def _text_of(self, asked: Generate) -> TextStream:
        """The text of the answer so far, already shown: only what follows it will be."""
        after_control = bool(asked.prompt) and self._model.is_control(asked.prompt[-1])
        text = TextStream(asked.sampling.stop, lstrip=self._space_first and after_control)
        for token in asked.resume:
            text.feed(self._model.piece(token))
        return text
