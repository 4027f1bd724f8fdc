"""The same Idempotency-Key twice: one computation, one job, the same bytes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from cli.local_swarm import LocalNode, LocalSwarm
from tests.e2e.asking import MODEL, wait_served


def post(node: LocalNode, question: str, *, stream: bool) -> tuple[int, list[bytes]]:
    """The status, and the body's lines without comments."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "stream": stream,
        "max_tokens": 24,
    }
    request = urllib.request.Request(
        f"{node.url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json", "idempotency-key": "once"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, [line for line in answer if not line.startswith(b":")]
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, [refusal.read()]


def test_a_repeated_request_gets_the_same_bytes_also_after_a_restart(swarm: LocalSwarm) -> None:
    node = wait_served(swarm.start("one").wait_ready())
    first = post(node, "Tell me a story.", stream=True)
    assert first[0] == 200 and b"data: [DONE]\n" in first[1]
    assert post(node, "Tell me a story.", stream=True) == first
    status, refusal = post(node, "Tell me another one.", stream=True)
    assert (status, json.loads(refusal[0])["error"]["code"]) == (409, "RETRY_TOKEN_CONFLICT")
    node.kill()
    again = swarm.start("one").wait_ready()
    assert post(again, "Tell me a story.", stream=True) == first
    assert len(again.control.get("/jobs")) == 1
    assert again.metrics()["tether_worker_sampled_tokens_total"] == 0.0
