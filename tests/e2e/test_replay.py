"""The same Idempotency-Key again: one computation, one job, one bill, the same bytes, whatever breaks meanwhile."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from cli.local_swarm import LocalNode, LocalSwarm, until
from tests.e2e.asking import MODEL, wait_served


def post(
    node: LocalNode,
    question: str,
    *,
    stream: bool,
    key: str = "none",
    token: str = "once",
    at: int = 0,
    do: Callable[[], bool] | None = None,
) -> tuple[int, list[bytes]]:
    """The status, and the body's lines without comments. When `at` of them have come, `do` says whether to go on."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "stream": stream,
        "max_tokens": 24,
    }
    request = urllib.request.Request(
        f"{node.url}/v1/chat/completions",
        json.dumps(body).encode(),
        {
            "content-type": "application/json",
            "idempotency-key": token,
            "authorization": f"Bearer {key}",
        },
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            lines: list[bytes] = []
            for line in answer:
                if not line.startswith(b":"):
                    lines.append(line)
                if do is not None and len(lines) == at and not do():
                    break
            return answer.status, lines
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


def test_one_token_is_one_job_through_a_failover_a_disconnect_and_a_restart_and_gone_elsewhere(
    swarm: LocalSwarm,
) -> None:
    founder = swarm.start("founder", roles="gateway,orchestrator").wait_ready()
    ticket = swarm.invite(founder)
    workers = [swarm.start(f"worker{n}", ticket=ticket, roles="worker", rate=30.0) for n in range(2)]
    for worker in workers:
        worker.wait_ready()
    elsewhere = wait_served(swarm.start("elsewhere", ticket=ticket, roles="gateway").wait_ready(), 2)
    wait_served(founder, 2)
    founder.control.post("/tenants", {"tenant": "acme"})
    key = founder.control.post("/keys", {"tenant": "acme"})["key"]

    def kill_whoever_answers() -> bool:
        [job] = founder.control.get("/jobs")
        busy = job["attempts"][-1]["worker"]
        next(worker for worker in workers if worker.node_id == busy).kill()
        return True

    first = post(founder, "Tell me a story.", stream=True, key=key, at=12, do=kill_whoever_answers)
    assert first[0] == 200 and b"data: [DONE]\n" in first[1]
    left = post(founder, "Tell me a story.", stream=True, key=key, token="left", at=12, do=lambda: False)
    assert left[0] == 200 and b"data: [DONE]\n" not in left[1]
    jobs = until(lambda: _over(founder, 2), "both jobs to be over")
    assert sorted(job["state"] for job in jobs) == ["cancelled", "done"]
    assert len(next(job for job in jobs if job["state"] == "done")["attempts"]) == 2

    for node, token in ((elsewhere, "once"), (elsewhere, "left"), (founder, "left")):
        status, refusal = post(node, "Tell me a story.", stream=True, key=key, token=token)
        assert (status, json.loads(refusal[0])["error"]["code"]) == (409, "RESULT_GONE")
    founder.kill()
    again = swarm.start("founder").wait_ready()
    assert post(again, "Tell me a story.", stream=True, key=key) == first
    bills = {job["job"]: job["tokens"] for job in again.control.get("/jobs")}
    assert bills == {job["job"]: job["tokens"] for job in jobs}, "no job more, and no token billed twice"


def _over(node: LocalNode, count: int) -> list[dict[str, Any]]:
    jobs = [job for job in node.control.get("/jobs") if job["state"] != "running"]
    return jobs if len(jobs) == count else []
