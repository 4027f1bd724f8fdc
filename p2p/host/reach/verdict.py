"""What several answers say of one address. Pure.

A round asks up to three peers in distinct networks. Within a network the peers have one vote together, so that many
identities in one place weigh no more than one; among networks the majority counts, and a tie says nothing.

    unknown ──one round──> public | private ──two rounds in a row that say otherwise──> the other

                 | round: reached | round: not reached | round: nothing
    -------------|----------------|--------------------|----------------
    unknown      | public         | private            | unknown
    public       | public, sure   | public, in doubt   | as it was
      in doubt   | public, sure   | private            | as it was
    private      | private, doubt | private, sure      | as it was
      in doubt   | public         | private, sure      | as it was
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from p2p.host.paths import Reachability


@dataclass(frozen=True, slots=True)
class Vote:
    """One peer's answer. network: see `p2p.host.scores.network_of`."""

    network: str
    reached: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """reached, of: the networks that said so in the last round that said anything."""

    state: Reachability = Reachability.UNKNOWN
    doubtful: bool = False
    reached: int = 0
    of: int = 0

    def after(self, votes: Iterable[Vote]) -> Verdict:
        """The verdict once another round is in."""
        yes, no = _tally(votes)
        if yes == no:
            return self
        found = Reachability.PUBLIC if yes > no else Reachability.PRIVATE
        if self.state in (found, Reachability.UNKNOWN) or self.doubtful:
            return Verdict(found, False, yes, yes + no)
        return Verdict(self.state, True, yes, yes + no)


def overall(verdicts: Iterable[Verdict]) -> Reachability:
    """Of a node with these addresses: public where one of them is, private where all are."""
    states = {verdict.state for verdict in verdicts}
    if Reachability.PUBLIC in states:
        return Reachability.PUBLIC
    return Reachability.PRIVATE if states == {Reachability.PRIVATE} else Reachability.UNKNOWN


def _tally(votes: Iterable[Vote]) -> tuple[int, int]:
    """Networks for and against; one that is of two minds is neither."""
    balance: Counter[str] = Counter()
    for vote in votes:
        balance[vote.network] += 1 if vote.reached else -1
    return sum(count > 0 for count in balance.values()), sum(count < 0 for count in balance.values())
