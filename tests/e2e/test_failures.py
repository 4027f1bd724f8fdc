"""The worst day: workers and orchestrators die in mid-answer, the founder is gone, a node is told to stop."""

from __future__ import annotations

import threading

from cli.local_swarm import LocalNode, LocalSwarm, until
from tests.e2e.asking import LONG, a_swarm, ask, stream, wait_served

RATE = 40.0
"""Tokens a second: slow enough that a kill falls inside the stream."""


def test_a_worker_killed_in_mid_answer_changes_nothing_that_the_client_sees(swarm: LocalSwarm) -> None:
    founder, workers = a_swarm(swarm, workers=2, rate=RATE)
    by_id = {worker.node_id: worker for worker in workers}
    undisturbed = stream(founder)
    survivor_before = {worker.node_id: _sampled(worker) for worker in workers}
    killed: list[LocalNode] = []

    def kill() -> None:
        killed.append(until(lambda: _busy(founder, workers), "the answering worker to show its load"))
        killed[0].kill()

    disturbed = stream(founder, at=10, do=kill)

    assert disturbed.text == undisturbed.text
    assert disturbed.finish == undisturbed.finish
    assert disturbed.tether["attempts"] >= 2
    assert disturbed.tether["workers"][0] == killed[0].node_id
    survivor = by_id[disturbed.tether["workers"][-1]]
    assert survivor is not killed[0]
    emitted = disturbed.tether["tokens"]
    resumed = _sampled(survivor) - survivor_before[survivor.node_id]
    assert 0 < resumed == emitted[-1] < sum(emitted)
    assert sum(emitted) == undisturbed.tether["tokens"][0]


def test_an_orchestrator_killed_is_replaced_without_a_restart(swarm: LocalSwarm) -> None:
    founder = wait_served(swarm.start("founder").wait_ready())
    ticket = swarm.invite(founder)
    others = [swarm.start(name, ticket=ticket).wait_ready() for name in ("second", "third")]
    everyone = [founder, *others]
    for node in everyone:
        wait_served(node, 3)
    until(lambda: len({node.control.get("/status")["orchestrator"] for node in everyone}) == 1, "one leader")
    leader_id = founder.control.get("/status")["orchestrator"]
    [leader] = [node for node in everyone if node.node_id == leader_id]
    rest = [node for node in everyone if node is not leader]
    leader.kill()
    for node in rest:
        answer = stream(node)
        assert answer.finish == "stop"
        assert leader_id not in answer.tether["workers"]
    until(
        lambda: all(node.control.get("/status")["orchestrator"] not in (None, leader_id) for node in rest),
        "a new leader",
    )


def test_sigterm_lets_running_answers_finish_and_takes_no_new_ones(swarm: LocalSwarm) -> None:
    founder, workers = a_swarm(swarm, workers=2, rate=RATE)
    undisturbed = ask(founder)
    stopped: list[LocalNode] = []

    def stop() -> None:
        stopped.append(until(lambda: _busy(founder, workers), "the answering worker to show its load"))
        stopped[0].terminate()

    answer = stream(founder, at=10, do=stop)
    assert answer.text == undisturbed
    assert answer.tether["attempts"] == 1
    assert stopped[0].wait() == 0
    after = stream(founder)
    assert stopped[0].node_id not in after.tether["workers"]


def test_sigterm_to_the_gateway_finishes_its_stream_first(swarm: LocalSwarm) -> None:
    founder, _ = a_swarm(swarm, rate=RATE)
    undisturbed = ask(founder)
    answer = stream(founder, at=5, do=founder.terminate)
    assert answer.text == undisturbed
    assert founder.wait() == 0


def test_a_second_sigterm_stops_at_once(swarm: LocalSwarm) -> None:
    founder, _ = a_swarm(swarm, rate=RATE)
    begun = threading.Event()
    client = threading.Thread(target=lambda: _stream_until_broken(founder, begun))
    client.start()
    assert begun.wait(30)
    founder.terminate()
    founder.wait_event("daemon.draining")
    founder.terminate()
    assert founder.wait() != 0 or founder.process.returncode == 0
    client.join(30)


def test_when_the_founder_is_gone_a_newcomer_joins_through_another_address(swarm: LocalSwarm) -> None:
    founder = swarm.start("founder", roles="gateway,orchestrator").wait_ready()
    ticket = swarm.invite(founder)
    workers = [swarm.start(name, ticket=ticket).wait_ready() for name in ("worker0", "worker1")]
    for node in workers:
        until(lambda node=node: len(node.control.get("/nodes")) == 3, f"{node.name} to know all three")  # type: ignore[misc]
    later = swarm.invite(founder)
    founder.terminate()
    assert founder.wait() == 0

    newcomer = swarm.start("newcomer", ticket=later, roles="gateway").wait_ready()
    wait_served(newcomer)
    assert stream(newcomer).tether["workers"][0] in {worker.node_id for worker in workers}
    found = newcomer.metrics()['tether_dht_providers_found_total{kind="models"}']
    assert found >= 1


def test_workers_that_know_only_the_founder_find_each_other(swarm: LocalSwarm) -> None:
    _, [one, two] = a_swarm(swarm, workers=2)

    def met() -> bool:
        known = {node["nodeId"] for node in one.control.get("/nodes") if node["state"] == "alive"}
        return two.node_id in known and one.control.get("/status")["peers"] >= 2

    until(met, "the first worker to know the second and be connected to it")


def test_a_restarted_node_comes_back_without_a_ticket(swarm: LocalSwarm) -> None:
    founder, [worker] = a_swarm(swarm)
    known = worker.node_id
    worker.terminate()
    assert worker.wait() == 0
    again = swarm.start("worker0", roles="worker").wait_ready()
    assert again.node_id == known
    wait_served(founder, 1)
    assert stream(founder, "Hello!").tether["workers"] == [known]


def _busy(founder: LocalNode, workers: list[LocalNode]) -> LocalNode | None:
    loads = {node["nodeId"]: node["load"] for node in founder.control.get("/nodes")}
    return next((worker for worker in workers if loads.get(worker.node_id)), None)


def _sampled(worker: LocalNode) -> float:
    return worker.metrics()["tether_worker_sampled_tokens_total"]


def _stream_until_broken(node: LocalNode, begun: threading.Event) -> None:
    import openai

    try:
        stream(node, LONG, at=1, do=begun.set)
    except (openai.APIError, OSError):
        return
