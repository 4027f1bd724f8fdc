"""The headers by which OpenAI's clients pace themselves."""

from __future__ import annotations

from p2p.rates import Rates


def rate_headers(rates: Rates | None) -> dict[str, str]:
    """x-ratelimit-*, for what is limited; reset in OpenAI's words, such as 6m0s, 1.2s or 20ms."""
    headers: dict[str, str] = {}
    if rates is None:
        return headers
    for what, limit, remaining, reset_s in (
        ("requests", rates.limit_requests, rates.remaining_requests, rates.reset_requests_s),
        ("tokens", rates.limit_tokens, rates.remaining_tokens, rates.reset_tokens_s),
    ):
        if limit is not None:
            headers[f"x-ratelimit-limit-{what}"] = str(limit)
            headers[f"x-ratelimit-remaining-{what}"] = str(remaining or 0)
            headers[f"x-ratelimit-reset-{what}"] = span(reset_s)
    return headers


def span(seconds: float) -> str:
    """At most a minute or two: nothing that resets here takes longer."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{minutes:.0f}m{rest:.0f}s" if minutes else f"{rest:g}s"
