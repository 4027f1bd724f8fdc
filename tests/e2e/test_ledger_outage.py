"""The ledger's worst day with whole daemons: PostgreSQL dies in mid-answer, and so do those around it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from typing import Any

import openai

from cli.local_swarm import LocalNode, LocalSwarm, until
from tests.e2e.asking import MODEL, stream, wait_served
from tests.servers.postgres import postgres_server

RATE = 40.0


def refusal(node: LocalNode) -> tuple[str, str | None]:
    """The code of a request that is refused, and its retry-after."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello?"}]}
    request = urllib.request.Request(
        f"{node.url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60):
            return "", None
    except urllib.error.HTTPError as error:
        with error:
            return str(json.loads(error.read())["error"]["code"]), error.headers["retry-after"]


def tetherctl(node: LocalNode, *arguments: str) -> str:
    command = [sys.executable, "-m", "cli.tetherctl", "--data-dir", str(node.data_dir), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def ended(node: LocalNode, count: int) -> list[dict[str, Any]]:
    """The jobs, once so many of them are over."""

    def over() -> list[dict[str, Any]]:
        jobs = [job for job in node.control.get("/jobs") if job["state"] != "running"]
        return jobs if len(jobs) >= count else []

    return until(over, f"{count} jobs to be over")


def test_postgresql_killed_in_mid_answer_costs_no_token_and_no_bill_even_if_the_gateway_dies_too(
    swarm: LocalSwarm,
) -> None:
    with postgres_server() as server:
        environ = {"TETHER_STORE": server.new_database()}
        founder = swarm.start("founder", roles="gateway,orchestrator", environ=environ).wait_ready()
        ticket = swarm.invite(founder)
        swarm.start("worker", ticket=ticket, roles="worker", rate=RATE).wait_ready()
        wait_served(founder)

        answer = stream(founder, at=5, do=lambda: server.kill(signal.SIGKILL))
        assert answer.finish == "stop"
        code, wait = refusal(founder)
        assert code == "LEDGER_UNAVAILABLE" and wait is not None and int(wait) >= 1
        until(lambda: founder.metrics()["tether_gateway_unsettled"] == 1, "the settlement to be owed")

        founder.kill()
        server.start()
        again = swarm.start("founder", environ=environ).wait_ready()
        [job] = ended(again, 1)
        assert (job["state"], job["tokens"]) == ("done", sum(answer.tether["tokens"]))
        until(lambda: again.metrics()["tether_gateway_unsettled"] == 0, "nothing to be owed")


def test_of_two_orchestrators_over_one_postgresql_the_second_settles_what_the_first_began(
    swarm: LocalSwarm,
) -> None:
    with postgres_server() as server:
        environ = {"TETHER_STORE": server.new_database()}
        founder = swarm.start("founder", roles="orchestrator", environ=environ).wait_ready()
        ticket = swarm.invite(founder, roles=["gateway", "worker", "orchestrator"])
        second = swarm.start("second", ticket=ticket, roles="orchestrator", environ=environ).wait_ready()
        swarm.start("worker", ticket=ticket, roles="worker", rate=RATE).wait_ready()
        gateway = wait_served(swarm.start("gateway", ticket=ticket, roles="gateway").wait_ready())
        leaders = {node.node_id: node for node in (founder, second)}

        def agreed() -> str | None:
            seen = {node.control.get("/status")["orchestrator"] for node in (*leaders.values(), gateway)}
            return seen.pop() if len(seen) == 1 else None

        leader = leaders.pop(until(agreed, "one leader"))
        [heir] = leaders.values()
        answer = stream(gateway, at=5, do=leader.kill)
        assert answer.finish == "stop"
        [job] = ended(heir, 1)
        assert (job["state"], job["tokens"]) == ("done", sum(answer.tether["tokens"]))
        assert stream(gateway).finish == "stop"
        done = ended(heir, 2)
        assert len({one["job"] for one in done}) == 2


def test_dead_letters_are_seen_and_tried_again_with_tetherctl(swarm: LocalSwarm) -> None:
    founder = swarm.start("founder", roles="gateway,orchestrator").wait_ready()
    ticket = swarm.invite(founder)
    worker = swarm.start("worker", ticket=ticket, roles="worker", rate=RATE).wait_ready()
    wait_served(founder)
    failed = threading.Event()

    def ask() -> None:
        try:
            stream(founder, at=5, do=worker.kill)
        except openai.APIError:
            failed.set()

    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(90)
    assert failed.is_set()
    [letter] = until(lambda: founder.control.get("/dlq"), "a dead letter")
    assert letter["attempts"][0]["worker"] == worker.node_id
    assert letter["job"][:12] in tetherctl(founder, "dlq", "list")
    assert letter["cause"] in tetherctl(founder, "dlq", "show", letter["job"][:8])
    assert json.loads(tetherctl(founder, "--json", "dlq", "show", letter["job"])) == letter
    swarm.start("another", ticket=ticket, roles="worker").wait_ready()
    wait_served(founder)
    retried = json.loads(tetherctl(founder, "--json", "dlq", "retry", letter["job"][:8]))
    assert retried["retryOf"] == letter["job"]
    done = until(
        lambda: [
            one
            for one in founder.control.get("/jobs")
            if (one["job"], one["state"]) == (retried["job"], "done")
        ],
        "the retry to be answered",
    )
    assert done[0]["tokens"] > 0
    assert founder.control.get("/dlq") == []
