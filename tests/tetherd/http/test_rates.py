"""The headers that OpenAI's clients read."""

from __future__ import annotations

import pytest

from p2p.errors import QUOTA_EXCEEDED, RATE_LIMITED, TetherError
from p2p.rates import Rates
from tetherd.http.answering import error_response
from tetherd.http.rates import rate_headers, span
from tetherd.http.responses import error_body


@pytest.mark.parametrize(("seconds", "text"), [(0, "0ms"), (0.02, "20ms"), (1.25, "1.2s"), (60, "1m0s")])
def test_a_span_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_only_what_is_limited_is_told() -> None:
    assert rate_headers(None) == rate_headers(Rates()) == {}
    assert rate_headers(Rates(limit_tokens=10, remaining_tokens=4, reset_tokens_s=36.0)) == {
        "x-ratelimit-limit-tokens": "10",
        "x-ratelimit-remaining-tokens": "4",
        "x-ratelimit-reset-tokens": "36s",
    }


def test_a_refusal_says_when_to_ask_again_in_openais_words() -> None:
    error = TetherError(
        RATE_LIMITED, "Slowly.", retry_after_s=1.5, rates=Rates(limit_requests=1, remaining_requests=0)
    )
    answer = error_response(error)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert error_body(error)["error"]["code"] == "rate_limit_exceeded"
    spent = error_body(TetherError(QUOTA_EXCEEDED, "Spent."))["error"]
    assert (spent["code"], spent["type"]) == ("insufficient_quota", "insufficient_quota")
