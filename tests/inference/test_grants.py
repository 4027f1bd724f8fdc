"""A grant is taken from an orchestrator of the worker's own region, and only as it was signed."""

from __future__ import annotations

import pytest

from inference.grants import check_grant
from p2p.errors import GRANT_INVALID, TetherError
from p2p.messages import Grant, SignedGrant
from tests.inference.people import (
    FOREIGNER,
    GATEWAY,
    INCARNATION,
    NOW,
    ORCHESTRATOR,
    OUTSIDER,
    SWARM,
    WORKER,
    Person,
    grant_for,
    sign,
)


def checked(signed: SignedGrant) -> Grant:
    return check_grant(
        signed,
        caller=GATEWAY.peer,
        worker=WORKER.peer,
        incarnation=INCARNATION,
        swarm_id=SWARM,
        region="eu",
        now=NOW,
    )


def test_a_grant_of_the_regions_orchestrator_is_taken_as_it_was_signed() -> None:
    assert checked(sign(grant_for(), ORCHESTRATOR)) == grant_for()


@pytest.mark.parametrize("signer", [FOREIGNER, OUTSIDER], ids=["of another region", "a worker"])
def test_a_grant_of_anybody_else_is_refused(signer: Person) -> None:
    with pytest.raises(TetherError, match="orchestrator of region eu") as caught:
        checked(sign(grant_for(), signer))
    assert caught.value.code is GRANT_INVALID
