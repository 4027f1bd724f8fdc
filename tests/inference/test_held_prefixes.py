"""A worker's memory of what it has computed, as others know it."""

from __future__ import annotations

import pytest

from inference.held_prefixes import MAX_HELD, HeldPrefixes, check_prefixes
from p2p.errors import OUT_OF_RANGE, TetherError
from p2p.messages import MAX_PREFIXES


def test_the_newest_stay() -> None:
    held = HeldPrefixes()
    digests = [number.to_bytes(8) for number in range(MAX_HELD + 5)]
    held.add(digests[:MAX_HELD])
    held.add(digests[:2])
    held.add(digests[MAX_HELD:])
    assert set(held.digests()) == {*digests[:2], *digests[7:]}


@pytest.mark.parametrize("digests", [(b"1" * 7,), (b"1" * 9,), (b"1" * 8,) * (MAX_PREFIXES + 1)])
def test_what_no_gateway_makes_is_refused(digests: tuple[bytes, ...]) -> None:
    with pytest.raises(TetherError) as refused:
        check_prefixes(digests)
    assert refused.value.code is OUT_OF_RANGE
