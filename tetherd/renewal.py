"""Certificates that never run out under way: renewed by any issuer, long before their end and without a human.

A node that may orchestrate asks for its leave to admit others in the same breath: the authority gives it when it is
up, so a swarm whose founder comes back now and then has more issuers than the founder alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final

import structlog
import trio

from p2p.errors import TetherError
from p2p.identity import PeerId
from p2p.membership import Member, Papers, check_credential, check_issuer
from p2p.messages import RENEW, EnrolAnswer, RenewRequest
from p2p.rpc import Rpc
from tetherd.data_dir import Standing

SPENT: Final = 2 / 3
"""Of its life: a certificate of 30 days leaves ten days for an issuer to be found."""
LOOK_S: Final = 600.0
"""How often a node looks at its dates; drawn up to a quarter longer, so that a swarm does not ask in one breath."""
ASK_S: Final = 10.0

_log: Final = structlog.get_logger()


def is_old(not_before: float, not_after: float, now: float) -> bool:
    """Whether it is time to renew. All three in unix seconds."""
    return now >= not_before + SPENT * (not_after - not_before)


def lacks_leave(standing: Standing, member: Member, now: float) -> bool:
    """Whether a node that may orchestrate has no leave to admit others, or one that is old."""
    if "orchestrator" not in member.certificate.roles:
        return False
    if not standing.issuer:
        return True
    try:
        leave = check_issuer(standing.issuer, standing.swarm_id, now)
    except TetherError:
        return True
    return is_old(leave.not_before, leave.not_after, now)


class Renewal:
    """Keeps one node's papers fresh. issuers: whom to ask, the likeliest first; adopt: told each new standing."""

    def __init__(
        self,
        rpc: Rpc,
        papers: Papers,
        standing: Standing,
        *,
        issuers: Callable[[], Iterable[PeerId]],
        adopt: Callable[[Standing], None],
        now: Callable[[], float],
    ) -> None:
        self._rpc = rpc
        self._papers = papers
        self._standing = standing
        self._issuers = issuers
        self._adopt = adopt
        self._now = now

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK_S * random.uniform(1.0, 1.25))

    async def look(self) -> None:
        """Ask for what is due, of one issuer after the other, until nothing is."""
        for issuer in self._issuers():
            if not self._due():
                return
            try:
                answer = await self._rpc.ask(issuer, RENEW, RenewRequest(), timeout_s=ASK_S)
                self._take(answer)
            except TetherError as error:
                _log.debug("certificate.refused", issuer=issuer, code=error.code.name)
        if self._old():
            _log.warning("certificate.old", expires_at=self._papers.member.certificate.not_after)

    def _due(self) -> bool:
        return self._old() or lacks_leave(self._standing, self._papers.member, self._now())

    def _old(self) -> bool:
        certificate = self._papers.member.certificate
        return is_old(certificate.not_before, certificate.not_after, self._now())

    def _take(self, answer: EnrolAnswer) -> None:
        """Adopt what is better than before. Raises TetherError(CERTIFICATE_*) for papers that do not hold."""
        old, standing = self._papers.member, self._standing
        fresh = check_credential(answer.credential, standing.swarm_id, self._now())
        if fresh.peer != old.peer or fresh.certificate.enc_key != old.certificate.enc_key:
            return
        if not set(old.certificate.roles) <= set(fresh.certificate.roles):
            return
        if answer.issuer:
            check_issuer(answer.issuer, standing.swarm_id, self._now())
        elif not self._old():
            return
        self._papers.member = fresh
        self._standing = Standing(standing.swarm_id, fresh.credential, answer.issuer or standing.issuer)
        self._adopt(self._standing)
        _log.info(
            "certificate.renewed",
            issuer=fresh.issuer,
            expires_at=fresh.certificate.not_after,
            admits=bool(self._standing.issuer),
        )
