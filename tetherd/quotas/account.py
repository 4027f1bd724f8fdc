"""One subject's books: what is settled and reserved this month, what runs, and how full the minute is. Pure.

    admit    a job's worst case fits into every limit, or it is refused and nothing has changed
    post     a job stood so before and stands so now: the difference is booked, in whole numbers

So an account is always the sum of its jobs' standings, and settled + reserved never exceeds a quota: whatever is
settled was reserved before. The two rates are leaky buckets that empty within a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from p2p.errors import QUOTA_EXCEEDED, RATE_LIMITED, TetherError
from p2p.rates import Rates
from tetherd.quotas.hold import Standing
from tetherd.quotas.limits import Limits
from tetherd.quotas.money import amount

MINUTE_S: Final = 60.0
BUSY_S: Final = 1.0
"""When a tenant at its concurrency may ask again: an answer takes seconds."""
RESERVED_S: Final = 5.0
"""The same where only what others reserved stands in the way."""


@dataclass(frozen=True, slots=True)
class Account:
    """month: such as 202611, UTC; requests, tokens: the buckets' levels at leaked_at (unix seconds)."""

    subject: str
    month: int = 0
    settled_tokens: int = 0
    settled_micros: int = 0
    reserved_tokens: int = 0
    reserved_micros: int = 0
    running: int = 0
    requests: float = 0.0
    tokens: float = 0.0
    leaked_at: float = 0.0

    def at(self, limits: Limits, now: float) -> Account:
        """A new month begins with nothing settled; what is reserved is settled in the month in which it ends."""
        month = month_of(now)
        minutes = max(0.0, now - self.leaked_at) / MINUTE_S
        return replace(
            self,
            month=max(month, self.month),
            settled_tokens=0 if month > self.month else self.settled_tokens,
            settled_micros=0 if month > self.month else self.settled_micros,
            requests=_leaked(self.requests, limits.requests_per_minute, minutes),
            tokens=_leaked(self.tokens, limits.tokens_per_minute, minutes),
            leaked_at=max(now, self.leaked_at),
        )

    def posted(self, before: Standing, after: Standing) -> Account:
        return replace(
            self,
            settled_tokens=max(0, self.settled_tokens + after.settled_tokens - before.settled_tokens),
            settled_micros=max(0, self.settled_micros + after.settled_micros - before.settled_micros),
            reserved_tokens=max(0, self.reserved_tokens + after.reserved_tokens - before.reserved_tokens),
            reserved_micros=max(0, self.reserved_micros + after.reserved_micros - before.reserved_micros),
            running=max(0, self.running + after.running - before.running),
            tokens=max(0.0, self.tokens + after.tokens - before.tokens),
        )

    def asked(self) -> Account:
        return replace(self, requests=self.requests + 1)


def admit(account: Account, limits: Limits, before: Standing, after: Standing, *, first: bool) -> Account:
    """Book a claim on an account that was brought to now. first: of its job, so that it counts as a request.

    Raises TetherError(RATE_LIMITED | QUOTA_EXCEEDED).
    """
    if first:
        _check_requests(account, limits)
    _check_concurrency(account, limits, after.running - before.running)
    _check_minute(account, limits, after.tokens - before.tokens)
    _check_month(account, limits, before, after)
    return (account.asked() if first else account).posted(before, after)


def rates(account: Account, limits: Limits) -> Rates:
    """What is left of a minute, of an account that was brought to now."""
    requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
    return Rates(
        limit_requests=requests,
        remaining_requests=None if requests is None else max(0, int(requests - account.requests)),
        reset_requests_s=0.0 if requests is None else account.requests * MINUTE_S / requests,
        limit_tokens=tokens,
        remaining_tokens=None if tokens is None else max(0, int(tokens - account.tokens)),
        reset_tokens_s=0.0 if tokens is None else account.tokens * MINUTE_S / tokens,
    )


def tightest(found: Sequence[Rates]) -> Rates | None:
    """Of several accounts that a request has to keep within, the least of requests and the least of tokens."""
    requests = min((one for one in found if one.limit_requests is not None), key=_requests_left, default=None)
    tokens = min((one for one in found if one.limit_tokens is not None), key=_tokens_left, default=None)
    if requests is None and tokens is None:
        return None
    requests, tokens = requests or Rates(), tokens or Rates()
    return Rates(
        requests.limit_requests,
        requests.remaining_requests,
        requests.reset_requests_s,
        tokens.limit_tokens,
        tokens.remaining_tokens,
        tokens.reset_tokens_s,
    )


def month_of(now: float) -> int:
    date = datetime.fromtimestamp(now, UTC)
    return date.year * 100 + date.month


def _requests_left(told: Rates) -> int:
    return told.remaining_requests or 0


def _tokens_left(told: Rates) -> int:
    return told.remaining_tokens or 0


def _leaked(level: float, limit: int | None, minutes: float) -> float:
    return 0.0 if limit is None else max(0.0, level - limit * minutes)


def _check_requests(account: Account, limits: Limits) -> None:
    limit = limits.requests_per_minute
    if limit is not None and account.requests + 1 > limit + 1e-9:
        wait_s = (account.requests + 1 - limit) * MINUTE_S / limit
        detail = f"{_name(account)} may ask {limit} times a minute."
        raise TetherError(RATE_LIMITED, detail, retry_after_s=wait_s, rates=rates(account, limits))


def _check_concurrency(account: Account, limits: Limits, more: int) -> None:
    if limits.concurrency is not None and more > 0 and account.running + more > limits.concurrency:
        detail = f"{_name(account)} may have {limits.concurrency} requests at a time."
        raise TetherError(RATE_LIMITED, detail, retry_after_s=BUSY_S, rates=rates(account, limits))


def _check_minute(account: Account, limits: Limits, more: int) -> None:
    limit = limits.tokens_per_minute
    if limit is None or more <= 0 or account.tokens + more <= limit + 1e-6:
        return
    if more > limit:
        detail = f"The request may need {more} tokens, and {_name(account)} has {limit} a minute: lower max_tokens."
        raise TetherError(QUOTA_EXCEEDED, detail, rates=rates(account, limits))
    wait_s = (account.tokens + more - limit) * MINUTE_S / limit
    detail = f"{_name(account)} has {limit} tokens a minute; this request may need {more}."
    raise TetherError(RATE_LIMITED, detail, retry_after_s=wait_s, rates=rates(account, limits))


def _check_month(account: Account, limits: Limits, before: Standing, after: Standing) -> None:
    tokens = after.tokens - before.tokens
    cost = after.reserved_micros + after.settled_micros - before.reserved_micros - before.settled_micros
    months = (
        (limits.tokens_per_month, account.settled_tokens, account.reserved_tokens, tokens, "tokens"),
        (limits.budget, account.settled_micros, account.reserved_micros, cost, "money"),
    )
    for limit, settled, reserved, more, what in months:
        if limit is None or more <= 0 or settled + reserved + more <= limit:
            continue
        limit_text, left_text = (
            (f"{limit} tokens", f"{max(0, limit - settled - reserved)} tokens")
            if what == "tokens"
            else (amount(limit), amount(max(0, limit - settled - reserved)))
        )
        detail = (
            f"{_name(account)} has {limit_text} a month; {left_text} of it is left, less than this may need."
        )
        wait_s = RESERVED_S if settled + more <= limit else None
        raise TetherError(QUOTA_EXCEEDED, detail, retry_after_s=wait_s, rates=rates(account, limits))


def _name(account: Account) -> str:
    kind, _, name = account.subject.partition(":")
    return f"Tenant {name}" if kind == "tenant" else f"The API key {name}"
