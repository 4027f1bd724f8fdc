"""The engines of one worker: started when their models are asked for, stopped when others need the room.

`residency.py` decides; here engines run, each in a task of its own, and whoever asked waits for his turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol, assert_never

import structlog
import trio

from inference.engine import Engine, EngineInfo
from inference.offer import Offer
from inference.residency import (
    Admit,
    Ask,
    Begin,
    Event,
    Failed,
    Gone,
    Leave,
    Load,
    Loaded,
    Refuse,
    Residency,
    State,
    Tick,
    Unload,
)
from p2p.errors import ENGINE_FAILED, MODEL_INVALID, TetherError
from p2p.messages import ServedModel

TOLD_S: Final = 0.5
"""How often somebody who waits is told how far his model is, if it has moved."""
TOLD_AGAIN_S: Final = 5.0
"""How often if it has not: gateways give up on a worker that is silent for 15 s."""

log: Final = structlog.get_logger()


class RoomMetrics(Protocol):
    def loads(self, outcome: str, seconds: float) -> None:
        """A load ended: "loaded", or the code of its error."""

    def unloaded(self) -> None: ...

    def room(self, loaded: int, models: int, waiting: int, used_bytes: int, budget_bytes: int) -> None:
        """How things stand. used_bytes: reckoned, not measured."""

    def progress(self, fraction: float) -> None:
        """Of the load that is under way, 0 to 1; of none: 1."""


class NoRoomMetrics:
    """Counts nothing."""

    def loads(self, outcome: str, seconds: float) -> None:
        pass

    def unloaded(self) -> None:
        pass

    def room(self, loaded: int, models: int, waiting: int, used_bytes: int, budget_bytes: int) -> None:
        pass

    def progress(self, fraction: float) -> None:
        pass


@dataclass(slots=True)
class Lodging:
    """One model's place. last: what its engine was the last time; failure: of its last load; scope: of its task."""

    offer: Offer
    engine: Engine | None = None
    last: EngineInfo | None = None
    failure: TetherError | None = None
    scope: trio.CancelScope | None = None
    fraction: float = 0.0

    @property
    def info(self) -> EngineInfo | None:
        return self.last if self.engine is None else self.engine.info

    @property
    def away(self) -> bool:
        """Whether it is a server's model, and the server does not answer."""
        return self.engine is not None and not self.engine.info.serving

    def served(self, digest: str) -> ServedModel:
        """exact and tokens_per_second: of one that never ran, nobody knows yet."""
        manifest, info = self.offer.manifest, self.info
        if info is None:
            return ServedModel(
                manifest.name,
                manifest.version,
                digest,
                self.offer.context_tokens,
                loaded=False,
                embeds=self.offer.embeds,
            )
        return ServedModel(
            manifest.name,
            manifest.version,
            digest,
            info.context_tokens,
            loaded=self.engine is not None,
            exact=info.exact,
            tokens_per_second=round(info.tokens_per_second, 1),
            embeds=info.embeds,
        )


class Turn:
    """One request's use of a model. Wait through `progress` first; then `engine` is there until the turn is left."""

    def __init__(self, lodging: Lodging) -> None:
        self._lodging = lodging
        self._ready = trio.Event()
        self._refusal: TetherError | None = None

    @property
    def engine(self) -> Engine:
        assert self._lodging.engine is not None, "its progress was not waited for"
        return self._lodging.engine

    async def progress(self) -> AsyncIterator[int]:
        """Percents of the load while it lasts; ends when the engine is there. Raises the refusal, if it is one."""
        last, told_s = -1, trio.current_time()
        while not self._ready.is_set():
            with trio.move_on_after(TOLD_S):
                await self._ready.wait()
                break
            percent, now_s = int(self._lodging.fraction * 100), trio.current_time()
            if percent != last or now_s >= told_s + TOLD_AGAIN_S:
                last, told_s = percent, now_s
                yield percent
        if self._refusal is not None:
            raise self._refusal

    def give(self, refusal: TetherError | None = None) -> None:
        self._refusal = refusal
        self._ready.set()


class EngineRoom:
    """offers: in the owner's order; budget_bytes: of memory for all engines that run at a time.

    told: how far a model's load has come; on_change: what is loaded has changed.
    """

    def __init__(
        self,
        offers: Sequence[Offer],
        budget_bytes: int,
        *,
        told: Callable[[Offer, float], None] = lambda _offer, _fraction: None,
        metrics: RoomMetrics = NoRoomMetrics(),  # noqa: B008 it keeps nothing
    ) -> None:
        self._lodgings = {str(offer.manifest.digest): Lodging(offer) for offer in offers}
        needs = {digest: lodging.offer.need_bytes for digest, lodging in self._lodgings.items()}
        self._residency = Residency(needs, budget_bytes)
        self.budget_bytes = budget_bytes
        self._told = told
        self._metrics = metrics
        self._tickets = count()
        self._turns: dict[int, Turn] = {}
        self._nursery: trio.Nursery | None = None
        self._changed = trio.Event()
        self._begun = trio.Event()
        self.on_change: Callable[[], None] = lambda: None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load what the start loads, then what is asked for, until cancelled; the engines end with it."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._step(Begin())
            task_status.started()
            while True:
                due_s = self._residency.next_s(trio.current_time())
                with trio.move_on_at(trio.current_time() + 3600 if due_s is None else due_s) as due:
                    await self._changed.wait()
                    self._changed = trio.Event()
                if due.cancelled_caught:
                    self._step(Tick())

    async def begun(self) -> None:
        """Wait until the start's loads are over. Raises the error of the first that failed."""
        await self._begun.wait()
        for lodging in self._lodgings.values():
            if lodging.failure is not None:
                raise lodging.failure

    # ── For the worker ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def slots(self) -> dict[str, int]:
        """Of each model by its digest, whether it is loaded or not."""
        return {digest: lodging.offer.slots for digest, lodging in self._lodgings.items()}

    @property
    def capacity(self) -> int:
        """Slots of the engines that run; before the first one does, those of the largest."""
        there = [one.offer.slots for one in self._lodgings.values() if one.engine is not None]
        return sum(there) or max((one.offer.slots for one in self._lodgings.values()), default=0)

    @property
    def used_bytes(self) -> int:
        """What the engines that run were reckoned to need."""
        return self._residency.used_bytes

    @property
    def on_gpu(self) -> bool:
        return any(one.info is not None and one.info.on_gpu for one in self._lodgings.values())

    @property
    def waiting(self) -> int:
        """Requests whose model is not there yet."""
        return self._residency.waiting

    def check(self, digest: str) -> None:
        """Raises TetherError(MODEL_NOT_FOUND | ENGINE_FAILED | CAPACITY) if asking for the model would, at once."""
        if refusal := self._residency.refusal(digest, trio.current_time()):
            raise refusal
        if self._lodgings[digest].away:
            raise TetherError(ENGINE_FAILED, "The server that has this model is away.")

    def offer(self, digest: str) -> Offer | None:
        """None for a model that is not served here, or no more."""
        return self._lodgings[digest].offer if self._residency.serves(digest) else None

    def served(self) -> tuple[ServedModel, ...]:
        """All models that could be asked for."""
        serves = self._residency.serves
        return tuple(
            lodging.served(digest)
            for digest, lodging in self._lodgings.items()
            if serves(digest) and not lodging.away
        )

    def lodgings(self) -> Iterator[tuple[State, Lodging]]:
        """Every model's place, in the owner's order, for whoever shows them."""
        return ((self._residency.state(digest), lodging) for digest, lodging in self._lodgings.items())

    def build_tags(self) -> dict[str, str]:
        """Of the models that have run, by digest."""
        return {digest: one.info.build_tag for digest, one in self._lodgings.items() if one.info is not None}

    @contextmanager
    def ask(self, digest: str) -> Iterator[Turn]:
        """Take a turn at a model; leaving the context gives it back, or stops waiting for it."""
        ticket = next(self._tickets)
        turn = self._turns[ticket] = Turn(self._lodgings[digest])
        self._step(Ask(ticket, digest))
        try:
            yield turn
        finally:
            del self._turns[ticket]
            self._step(Leave(ticket))

    # ── Engines ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _step(self, event: Event) -> None:
        for effect in self._residency.step(event, trio.current_time()):
            match effect:
                case Load(digest):
                    assert self._nursery is not None, "run comes first"
                    self._nursery.start_soon(self._keep, digest)
                case Unload(digest):
                    self._stop(digest)
                case Admit(ticket):
                    self._turns[ticket].give()
                case Refuse(ticket, error):
                    self._turns[ticket].give(error)
                case _:
                    assert_never(effect)
        self._tell()

    def _tell(self) -> None:
        loaded = sum(one.engine is not None for one in self._lodgings.values())
        self._metrics.room(
            loaded,
            len(self._lodgings),
            self.waiting,
            self.used_bytes,
            self.budget_bytes,
        )
        if self._residency.begun:
            self._begun.set()
        self._changed.set()

    def _stop(self, digest: str) -> None:
        lodging = self._lodgings[digest]
        assert lodging.scope is not None
        lodging.last, lodging.engine = lodging.info, None
        lodging.scope.cancel()

    async def _keep(self, digest: str) -> None:
        """One engine's life, from its load to the end of its turn in memory."""
        lodging = self._lodgings[digest]
        name, began_s = lodging.offer.manifest.name, trio.current_time()
        lodging.scope, lodging.failure = trio.CancelScope(), None
        self._loading(lodging, 0.0)
        log.info("model_loading", model=name, need_bytes=lodging.offer.need_bytes)
        try:
            with lodging.scope:
                async with lodging.offer.open(lambda fraction: self._loading(lodging, fraction)) as engine:
                    lodging.engine = engine
                    seconds = trio.current_time() - began_s
                    self._loading(lodging, 1.0)
                    self._metrics.loads("loaded", seconds)
                    log.info("model_loaded", model=name, seconds=round(seconds, 3))
                    self._step(Loaded(digest))
                    self.on_change()
                    await trio.sleep_forever()
        except TetherError as error:
            lodging.failure = error
            self._metrics.loads(error.code.name, trio.current_time() - began_s)
            self._metrics.progress(1.0)
            log.warning("model_not_loaded", model=name, code=error.code.name, cause=error.detail)
            self._step(Failed(digest, for_good=error.code is MODEL_INVALID))
        else:
            log.info("model_unloaded", model=name)
            self._metrics.unloaded()
            lodging.fraction = 0.0
            self._step(Gone(digest))
        self.on_change()

    def _loading(self, lodging: Lodging, fraction: float) -> None:
        lodging.fraction = fraction
        self._metrics.progress(fraction)
        self._told(lodging.offer, fraction)
