"""The dispatch machine by its table, and by chance: whatever workers do, the answer has no gap and no double."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import (
    CALL_LOST,
    CAPACITY,
    CONTEXT_EXCEEDED,
    ENGINE_FAILED,
    FIELD_INVALID,
    IN_FLIGHT,
    MODEL_NOT_FOUND,
    NO_WORKER,
    RESULT_GONE,
    Code,
    TetherError,
)
from p2p.identity import PeerId
from tetherd.gateway.answer import AttemptSummary
from tetherd.gateway.dispatch import (
    Accepted,
    Announce,
    Dispatch,
    Effect,
    Emit,
    Event,
    Expired,
    Fail,
    Finish,
    Finished,
    Loads,
    Lost,
    Open,
    Pause,
    Paused,
    Place,
    Placed,
    Refused,
    Tokens,
    Wait,
)
from tetherd.gateway.settings import GatewaySettings

A, B, C = PeerId("A"), PeerId("B"), PeerId("C")
SETTINGS = GatewaySettings(backoff_base_s=1.0, backoff_cap_s=4.0)


def error(code: Code, **more: object) -> TetherError:
    return TetherError(code, "It failed.", **more)  # type: ignore[arg-type]


def machine(max_tokens: int = 100, *, draw: float = 0.5) -> Dispatch:
    dispatch = Dispatch(SETTINGS, max_tokens, lambda: draw)
    assert dispatch.begin() == Place()
    return dispatch


def play(*events: Event, max_tokens: int = 100) -> tuple[Dispatch, list[Effect | None]]:
    dispatch = machine(max_tokens)
    return dispatch, [dispatch.step(event) for event in events]


def on(worker: PeerId) -> Placed:
    return Placed(worker, "eu")


def told(effect: Effect | None) -> str:
    assert isinstance(effect, Fail)
    return effect.error.code.name


def test_an_answer_without_trouble_goes_through_every_state_once() -> None:
    dispatch, effects = play(
        on(A), Accepted(7), Tokens((1, 2), 0, "ab"), Tokens((), 2, "c"), Finished("stop")
    )
    assert effects == [Open(()), Announce(7), Emit("ab", (1, 2)), Emit("c", ()), Finish("stop")]
    assert (dispatch.state, dispatch.prompt_tokens, dispatch.position) == ("ended", 7, 2)
    assert dispatch.attempts == (AttemptSummary(A, "eu", 2),)


def test_the_first_loss_goes_on_at_once_and_the_second_after_a_pause() -> None:
    lost = Lost(error(CALL_LOST))
    dispatch, effects = play(
        on(A), Accepted(7), Tokens((1, 2), 0, "ab"), lost, on(B), lost, Paused(), on(C), Accepted(7),
        Tokens((3,), 2, "c"), Finished("length"),
    )  # fmt: skip
    assert effects[3:8] == [
        Place((A,), "CALL_LOST"),
        Open((1, 2)),
        Pause(0.5),
        Place((A, B), "CALL_LOST"),
        Open((1, 2)),
    ]
    assert dispatch.attempts == (
        AttemptSummary(A, "eu", 2, "CALL_LOST"),
        AttemptSummary(B, "eu", 0, "CALL_LOST"),
        AttemptSummary(C, "eu", 1),
    )


def test_the_third_loss_is_the_last_and_says_what_the_client_can_use() -> None:
    for last, code in ((CALL_LOST, "WORKER_LOST"), (ENGINE_FAILED, "ENGINE_FAILED")):
        lost = Lost(error(CALL_LOST))
        _, effects = play(on(A), lost, on(B), lost, Paused(), on(C), Lost(error(last)))
        assert told(effects[-1]) == code


def test_while_an_attempt_runs_its_tokens_are_counted() -> None:
    dispatch, _ = play(on(A), Accepted(7), Tokens((1, 2), 0, "ab"))
    assert dispatch.attempts == (AttemptSummary(A, "eu", 2),)


@pytest.mark.parametrize("code", [CONTEXT_EXCEEDED, FIELD_INVALID])
def test_the_clients_fault_ends_the_request(code: Code) -> None:
    _, effects = play(on(A), Lost(error(code, field="messages")))
    assert told(effects[-1]) == code.name


def test_what_a_worker_made_wrong_is_not_the_clients_fault() -> None:
    _, effects = play(on(A), Lost(error(FIELD_INVALID, field="resume")))
    assert isinstance(effects[-1], Place)


@pytest.mark.parametrize("code", [NO_WORKER, MODEL_NOT_FOUND])
def test_a_passing_refusal_is_asked_again_until_a_status_is_due(code: Code) -> None:
    refused = Refused(error(code))
    _, effects = play(refused, Paused(), refused, Paused(), refused)
    assert effects[:-1] == [Pause(0.5), Place(), Pause(1.0), Place()]
    assert told(effects[-1]) == code.name


@pytest.mark.parametrize("code", [RESULT_GONE, IN_FLIGHT, CAPACITY])
def test_a_lasting_refusal_is_told_at_once(code: Code) -> None:
    _, effects = play(Refused(error(code)))
    assert told(effects[-1]) == code.name


def test_an_answer_that_has_begun_waits_longer_for_a_place() -> None:
    refused = Refused(error(CAPACITY))
    begun = [on(A), Accepted(7), Tokens((1,), 0, "a"), Lost(error(CALL_LOST))]
    _, effects = play(*begun, *[refused, Paused()] * 5, refused)
    assert [effect for effect in effects[4:-1] if isinstance(effect, Pause)] == [
        Pause(seconds) for seconds in (0.5, 1.0, 2.0, 2.0, 2.0)
    ]
    assert told(effects[-1]) == "CAPACITY"


def test_a_pause_is_no_shorter_than_what_the_refusal_asks_for_within_bounds() -> None:
    for asked_s, pause_s in ((3.0, 3.0), (60.0, 4.0), (0.1, 0.5)):
        _, effects = play(Refused(error(NO_WORKER, retry_after_s=asked_s)))
        assert effects == [Pause(pause_s)]


def test_when_nobody_else_is_there_the_workers_that_failed_may_try_again() -> None:
    _, effects = play(on(A), Lost(error(ENGINE_FAILED)), Refused(error(NO_WORKER)), Paused())
    assert effects[1] == Place((A,), "ENGINE_FAILED")
    assert effects[-1] == Place((), "ENGINE_FAILED")


@pytest.mark.parametrize(
    "events",
    [
        [Tokens((1,), 0, "a")],
        [Finished("stop")],
        [Accepted(7), Accepted(7)],
        [Accepted(7), Tokens((1,), 1, "a")],
        [Accepted(7), Tokens((1, 2), 0, "ab"), Tokens((2, 3), 1, "bc")],
        [Accepted(7), Tokens((1,) * 101, 0, "a")],
    ],
)
def test_a_broken_rule_loses_the_attempt(events: list[Event]) -> None:
    dispatch, effects = play(on(A), *events)
    assert isinstance(effects[-1], Place)
    assert dispatch.attempts[-1].cause == "FRAME_INVALID"


def test_tokens_that_were_emitted_already_are_dropped() -> None:
    _, effects = play(
        on(A), Accepted(7), Tokens((1, 2), 0, "ab"), Tokens((1, 2), 0, "ab"), Tokens((2,), 1, "b")
    )
    assert effects[-2:] == [None, None]


@pytest.mark.parametrize("before", [[], [on(A)], [on(A), Accepted(7)], [Refused(error(NO_WORKER))]])
def test_the_deadline_ends_every_state(before: list[Event]) -> None:
    dispatch, effects = play(*before, Expired())
    assert told(effects[-1]) == "DEADLINE"
    assert dispatch.state == "ended"


CHUNKS = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 4)), max_size=8)
"""How far off its place each chunk stands, and how many ids it has."""


@given(st.lists(st.tuples(CHUNKS, st.booleans()), min_size=1, max_size=6))
def test_the_emitted_ids_are_gapless_and_without_doubles_whatever_workers_send(
    script: list[tuple[list[tuple[int, int]], bool]],
) -> None:
    """The id at position p is p: so the answer is right if and only if it counts up from 0."""
    dispatch = machine()
    effect: Effect | None = Place()
    emitted: list[int] = []
    for number, (chunks, ends_well) in enumerate(script):
        while isinstance(effect, Pause):
            effect = dispatch.step(Paused())
        if not isinstance(effect, Place):
            break
        effect = dispatch.step(on(PeerId(f"worker {number}")))
        assert effect == Open(tuple(emitted))
        effect = dispatch.step(Accepted(1))
        for shift, length in chunks:
            start = max(0, len(emitted) + shift)
            effect = dispatch.step(Tokens(tuple(range(start, start + length)), start, ""))
            if isinstance(effect, Emit):
                emitted += effect.ids
            elif effect is not None:
                break
        if dispatch.state == "streaming":
            effect = dispatch.step(Finished("stop") if ends_well else Lost(error(CALL_LOST)))
    assert emitted == list(range(len(emitted))) == list(dispatch.ids)
    assert sum(attempt.tokens for attempt in dispatch.attempts) == len(emitted)
    assert len(dispatch.attempts) <= SETTINGS.attempts


def test_the_jitter_is_full() -> None:
    for draw, seconds in ((0.0, 0.0), (0.999, 0.999)):
        dispatch = machine(draw=draw)
        assert dispatch.step(Refused(error(NO_WORKER))) == Pause(seconds)


def test_a_load_is_told_while_its_worker_has_not_accepted_and_at_no_other_time() -> None:
    _, effects = play(on(A), Loads(0), Loads(40), Accepted(5), Loads(50))
    assert effects == [Open(()), Wait(0), Wait(40), Announce(5), None]


def test_a_worker_without_room_for_the_model_is_told_once_there_is_no_other() -> None:
    full = Lost(error(CAPACITY, retry_after_s=5.0))
    dispatch, effects = play(on(A), full)
    assert effects[-1] == Place((A,), CAPACITY.name)
    ended = dispatch.step(Refused(error(NO_WORKER)))
    assert told(ended) == CAPACITY.name
    assert isinstance(ended, Fail) and ended.error.retry_after_s == 5.0
    begun, _ = play(on(A), Accepted(5), Tokens((1,), 0, "a"), Lost(error(ENGINE_FAILED)), on(B), full)
    assert isinstance(begun.state, str)
    assert not isinstance(begun.step(Paused()), Fail)
    assert isinstance(begun.step(Refused(error(NO_WORKER))), Pause)
