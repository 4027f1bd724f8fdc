"""Which models are in memory, and who waits for one. Pure: events with their time in, effects out.

    state     event                                               becomes   effect
    --------  --------------------------------------------------  --------  ----------------------------------
    absent    it is wanted, and there is room                     loading   Load
    loading   Loaded                                              resident  Admit, to all who wait for it
    loading   Failed                                              absent    Refuse, to all who wait for it
    resident  the next in turn needs its room, nobody uses it     leaving   Unload
    leaving   Gone                                                absent    -

- What is loading, resident and leaving stays within the budget together; only a model that is larger than the whole
  budget may run beyond it, alone.
- Nobody's model is unloaded under him. Of those that nobody uses, the ones used longest ago go, as few as will do.
- Models come in the order of their oldest waiters. If one has to wait for others' users, the ones that were loaded
  first take no new users meanwhile; but each may first stay as long as its load took, so that a worker whose models
  take turns spends at most half of its time on loading them.
- At most MAX_WAITING wait at a time, each at most ROOM_WAIT_S for its model's turn; a load that has begun is waited for
  as long as it takes, for its progress is told and its process watched.
- A model that failed to load is not tried again before a pause, which doubles; one that never will is withdrawn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, assert_never

from p2p.errors import CAPACITY, ENGINE_FAILED, MODEL_NOT_FOUND, TetherError

MAX_WAITING: Final = 64
"""Four full batches: the next one is served sooner by another worker, or by coming again."""
ROOM_WAIT_S: Final = 30.0
"""The answers that hold a model in memory take seconds; who uses it for longer uses it for minutes."""
RETRY_AFTER_S: Final = 5.0
FIRST_PAUSE_S: Final = 1.0
LAST_PAUSE_S: Final = 60.0

State = Literal["absent", "loading", "resident", "leaving"]


@dataclass(frozen=True, slots=True)
class Begin:
    """Load, one after the other, the first model and then what there is room for."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Somebody needs a model. ticket: a number of his own."""

    ticket: int
    model: str


@dataclass(frozen=True, slots=True)
class Leave:
    """He uses it no more, or waits no more."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Loaded:
    model: str


@dataclass(frozen=True, slots=True)
class Failed:
    """for_good: another try would end the same way."""

    model: str
    for_good: bool = False


@dataclass(frozen=True, slots=True)
class Gone:
    """What was to be unloaded has left the memory."""

    model: str


@dataclass(frozen=True, slots=True)
class Tick:
    """`next_s` has come."""


Event = Begin | Ask | Leave | Loaded | Failed | Gone | Tick


@dataclass(frozen=True, slots=True)
class Load:
    model: str


@dataclass(frozen=True, slots=True)
class Unload:
    model: str


@dataclass(frozen=True, slots=True)
class Admit:
    ticket: int


@dataclass(frozen=True, slots=True)
class Refuse:
    ticket: int
    error: TetherError


Effect = Load | Unload | Admit | Refuse


@dataclass(slots=True)
class _Model:
    """used_s: when it was last begun or ceased to be used; from_s: when its load began; until then no other's turn
    ends its own: give_way_s; retry_s: not to be loaded before."""

    need: int
    state: State = "absent"
    users: int = 0
    used_s: float = 0.0
    from_s: float = 0.0
    give_way_s: float = 0.0
    pause_s: float = FIRST_PAUSE_S
    retry_s: float = float("-inf")
    withdrawn: bool = False


@dataclass(slots=True)
class _Waiter:
    model: str
    since_s: float


class Residency:
    """needs: bytes by model, in the owner's order; 0: it takes no room. budget: bytes. Times are monotonic seconds."""

    def __init__(self, needs: Mapping[str, int], budget: int) -> None:
        self._models = {name: _Model(need) for name, need in needs.items()}
        self._budget = budget
        self._waiting: dict[int, _Waiter] = {}
        self._using: dict[int, str] = {}
        self._first: deque[str] = deque()

    def state(self, model: str) -> State:
        return self._models[model].state

    def serves(self, model: str) -> bool:
        return model in self._models and not self._models[model].withdrawn

    @property
    def begun(self) -> bool:
        """Whether everything that the start loads has been loaded, or failed."""
        return not self._first and not any(one.state == "loading" for one in self._models.values())

    def refusal(self, model: str, now: float) -> TetherError | None:
        """What somebody would be told at once who asked for it now."""
        if not self.serves(model):
            return TetherError(MODEL_NOT_FOUND, "This worker does not serve that model.", field="model")
        one = self._models[model]
        if now < one.retry_s:
            return _unloadable(one.retry_s - now)
        if one.state != "resident" and len(self._waiting) >= MAX_WAITING:
            detail = f"{MAX_WAITING} requests wait for models that this worker has to load first."
            return TetherError(CAPACITY, detail, retry_after_s=RETRY_AFTER_S)
        return None

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def used_bytes(self) -> int:
        return sum(one.need for one in self._models.values() if one.state != "absent")

    def next_s(self, now: float) -> float | None:
        """When something is due though nothing happens."""
        due = [waiter.since_s + ROOM_WAIT_S for waiter in self._waiting.values() if self._bounded(waiter)]
        if self._waiting:
            held = (one.give_way_s for one in self._models.values() if one.state == "resident")
            due += [instant for instant in held if instant > now]
        return min(due, default=None)

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take an event; returns what the shell has to do."""
        effects: list[Effect] = []
        match event:
            case Begin():
                self._first.extend(self._models)
            case Ask(ticket, model):
                effects += self._ask(ticket, model, now)
            case Leave(ticket):
                self._leave(ticket, now)
            case Loaded(model):
                effects += self._loaded(model, now)
            case Failed(model, for_good):
                effects += self._failed(model, for_good, now)
            case Gone(model):
                self._models[model].state = "absent"
            case Tick():
                effects += self._refuse_late(now)
            case _:
                assert_never(event)
        return effects + list(self._plan(now))

    # ── Events ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _ask(self, ticket: int, model: str, now: float) -> Iterator[Effect]:
        if refusal := self.refusal(model, now):
            yield Refuse(ticket, refusal)
        else:
            self._waiting[ticket] = _Waiter(model, now)

    def _leave(self, ticket: int, now: float) -> None:
        self._waiting.pop(ticket, None)
        if (name := self._using.pop(ticket, None)) is not None:
            model = self._models[name]
            model.users -= 1
            model.used_s = now

    def _loaded(self, name: str, now: float) -> Iterator[Effect]:
        model = self._models[name]
        model.state, model.used_s = "resident", now
        model.give_way_s = now + (now - model.from_s)
        model.pause_s = FIRST_PAUSE_S
        yield from self._admit(name, now)

    def _failed(self, name: str, for_good: bool, now: float) -> Iterator[Effect]:
        model = self._models[name]
        model.state = "absent"
        model.withdrawn = for_good
        model.retry_s = now + model.pause_s
        model.pause_s = min(2 * model.pause_s, LAST_PAUSE_S)
        for ticket in self._waiters_of(name):
            del self._waiting[ticket]
            yield Refuse(ticket, _unloadable(model.retry_s - now))

    def _refuse_late(self, now: float) -> Iterator[Effect]:
        for ticket, waiter in list(self._waiting.items()):
            if self._bounded(waiter) and now >= waiter.since_s + ROOM_WAIT_S:
                del self._waiting[ticket]
                detail = (
                    f"The model is not loaded here, and no memory came free for it in {ROOM_WAIT_S:.0f} s."
                )
                yield Refuse(ticket, TetherError(CAPACITY, detail, retry_after_s=RETRY_AFTER_S))

    def _bounded(self, waiter: _Waiter) -> bool:
        return self._models[waiter.model].state != "loading"

    # ── What follows ─────────────────────────────────────────────────────────────────────────────────────────────

    def _plan(self, now: float) -> Iterator[Effect]:
        """Go through the models that are waited for, by their oldest waiters: each is given, or has its turn."""
        closed: list[str] = []
        blocked = False
        for name in dict.fromkeys(waiter.model for waiter in self._waiting.values()):
            model = self._models[name]
            if model.state == "resident" and name not in closed:
                yield from self._admit(name, now)
            if model.state != "absent":
                continue
            if model.need == 0 or (not blocked and self._fits(name)):
                yield self._load(name, now)
            elif not blocked:
                blocked = True
                victims = self._victims(name, self._idle())
                if victims is None:
                    over = self._giving_way(now)
                    closed = self._victims(name, over) or over
                for victim in victims or ():
                    self._models[victim].state = "leaving"
                    yield Unload(victim)
        if not blocked:
            yield from self._load_first(now)

    def _admit(self, name: str, now: float) -> Iterator[Effect]:
        model = self._models[name]
        for ticket in self._waiters_of(name):
            del self._waiting[ticket]
            self._using[ticket] = name
            model.users += 1
            model.used_s = now
            yield Admit(ticket)

    def _fits(self, name: str) -> bool:
        used = self.used_bytes
        return used + self._models[name].need <= self._budget or used == 0

    def _load(self, name: str, now: float) -> Load:
        model = self._models[name]
        model.state, model.from_s = "loading", now
        return Load(name)

    def _load_first(self, now: float) -> Iterator[Effect]:
        """At the start, while nothing else is being loaded."""
        while self._first and not any(one.state == "loading" for one in self._models.values()):
            name = self._first.popleft()
            model = self._models[name]
            if model.state == "absent" and now >= model.retry_s and not model.withdrawn and self._fits(name):
                yield self._load(name, now)

    def _idle(self) -> list[str]:
        """Those that may go, the one used longest ago first."""
        idle = [name for name, one in self._models.items() if self._holds_room(one) and not one.users]
        return sorted(idle, key=lambda name: self._models[name].used_s)

    def _giving_way(self, now: float) -> list[str]:
        """Those that have had their time, the one loaded longest ago first."""
        over = [name for name, one in self._models.items() if self._holds_room(one) and now >= one.give_way_s]
        return sorted(over, key=lambda name: self._models[name].from_s)

    @staticmethod
    def _holds_room(model: _Model) -> bool:
        return model.state == "resident" and model.need > 0

    def _victims(self, name: str, candidates: list[str]) -> list[str] | None:
        """The first of the candidates whose room, with what is leaving already, will do; None: all of it will not."""
        staying = sum(one.need for one in self._models.values() if one.state in ("loading", "resident"))
        room = max(0, self._budget - self._models[name].need)
        chosen: list[str] = []
        for candidate in candidates:
            if staying <= room:
                break
            chosen.append(candidate)
            staying -= self._models[candidate].need
        if staying > room:
            return None
        for candidate in reversed(chosen):
            if staying + self._models[candidate].need <= room:
                chosen.remove(candidate)
                staying += self._models[candidate].need
        return chosen

    def _waiters_of(self, name: str) -> list[int]:
        return [ticket for ticket, waiter in self._waiting.items() if waiter.model == name]


def _unloadable(wait_s: float) -> TetherError:
    return TetherError(ENGINE_FAILED, "The model could not be loaded here.", retry_after_s=wait_s)
