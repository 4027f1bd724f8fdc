"""Every contest of the transport in one run: ours and the peers in turn, round after round; then medians and goals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.report import Row, say
from benchmarks.transport.contest import Contest, Contests, Figure, Goal, Run
from benchmarks.transport.npm import Missing

OURS: Final = "ours"

Samples = dict[str, list[Mapping[str, float]]]
"""By side; what each run returned, in order."""


def measure(subjects: Sequence[Contests], runs: int) -> list[Row]:
    """One subject after the other, so that no other's processes are there. What cannot be had here is left out."""
    rows: list[Row] = []
    for subject in subjects:
        try:
            with subject() as contests:
                for contest in contests:
                    rows += _rows(contest, _taken(contest, runs))
        except Missing as error:
            say(f"left out, because {error}")
    return rows


def _taken(contest: Contest, runs: int) -> Samples:
    sides: dict[str, Run] = {OURS: contest.ours, **contest.peers}
    for _ in range(contest.warm_ups):
        for run in sides.values():
            run()
    samples: Samples = {name: [] for name in sides}
    rounds = contest.runs or runs
    for number in range(rounds):
        for name, run in sides.items():
            taken = run()
            samples[name].append(taken)
            figures = ", ".join(f"{key} {value:.4g}" for key, value in taken.items())
            say(f"{contest.figures[0].measure}: {name} {number + 1}/{rounds}: {figures}")
    return samples


def _rows(contest: Contest, samples: Samples) -> list[Row]:
    rows: list[Row] = []
    for figure in contest.figures:
        ours = _values(samples[OURS], figure)
        peers = {name: _values(samples[name], figure) for name in contest.peers}
        beside = [(name, taken) for name, taken in peers.items() if taken]
        if not beside:
            rows.append(_row(figure, ours, "", [], figure.goal))
        for position, (name, taken) in enumerate(beside):
            rows.append(_row(figure, ours, name, taken, None if position else figure.goal))
    return rows


def _values(taken: Sequence[Mapping[str, float]], figure: Figure) -> list[float]:
    return [one[figure.key] for one in taken if figure.key in one]


def _row(figure: Figure, ours: Sequence[float], name: str, peer: Sequence[float], goal: Goal | None) -> Row:
    mine, theirs = statistics.median(ours), statistics.median(peer) if peer else None
    ratio = statistics.median(a / b for a, b in zip(ours, peer, strict=True)) if peer else None
    value = ratio if goal and goal.of == "ratio" else mine
    if goal is None or value is None:
        return Row(figure.measure, figure.unit, mine, theirs, name, ratio, "", None, len(ours))
    return Row(
        figure.measure,
        figure.unit,
        mine,
        theirs,
        name,
        ratio,
        _said(goal, goal.aim, figure.unit),
        _met(goal, goal.floor, value),
        len(ours),
        _said(goal, goal.floor, figure.unit),
        _met(goal, goal.aim, value),
    )


def _said(goal: Goal, bound: float, unit: str) -> str:
    return f"{'>=' if goal.at == 'least' else '<='} {bound:g}{'x' if goal.of == 'ratio' else ' ' + unit}"


def _met(goal: Goal, bound: float, value: float) -> bool:
    return value >= bound if goal.at == "least" else value <= bound
