"""The main job: daemons with nothing in common but a ticket serve the openai client from a real model."""

from __future__ import annotations

import pytest
from openai import APIStatusError

from cli.local_swarm import LocalNode, LocalSwarm, until
from tests.e2e.asking import LONG, MODEL, a_swarm, ask, client_of, load_of, stream, wait_served


def test_one_machine_alone_founds_a_swarm_and_answers(swarm: LocalSwarm) -> None:
    node = wait_served(swarm.start("alone").wait_ready())
    assert ask(node) == stream(node).text != ""
    assert [model.id for model in client_of(node).models.list()] == [MODEL]
    completion = client_of(node).completions.create(
        model=MODEL, prompt="Once upon a time", max_tokens=8, temperature=0
    )
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 8
    assert completion.choices[0].finish_reason == "length"


def test_a_client_of_the_founder_is_served_by_a_worker_that_joined_with_a_ticket(swarm: LocalSwarm) -> None:
    founder, [worker] = a_swarm(swarm)
    answer = stream(founder)
    assert answer.text == ask(founder)
    assert answer.finish == "stop"
    assert answer.tether["attempts"] == 1
    assert answer.tether["workers"] == [worker.node_id]
    raw = client_of(founder).chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello!"}]
    )
    assert raw.headers["x-tether-worker"] == worker.node_id
    assert raw.headers["x-tether-region"] == "eu"
    job = raw.headers["x-tether-job"]
    told = until(lambda: _ended(founder, job), "the job to be settled")
    assert told["state"] == "done"
    assert [attempt["worker"] for attempt in told["attempts"]] == [worker.node_id]


def _ended(node: LocalNode, job: str) -> dict[str, object] | None:
    told: dict[str, object] = node.control.get(f"/jobs/{job}")
    return told if told["state"] != "running" else None


def test_the_same_seed_gives_the_same_text_and_another_seed_another(swarm: LocalSwarm) -> None:
    founder, _ = a_swarm(swarm)

    def story(seed: int) -> str:
        answer = client_of(founder).chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me a story."}],
            temperature=1.0,
            seed=seed,
        )
        return answer.choices[0].message.content or ""

    assert story(1) == story(1)
    assert len({story(seed) for seed in range(4)}) > 1


def test_a_client_that_goes_away_frees_the_slot(swarm: LocalSwarm) -> None:
    founder, [worker] = a_swarm(swarm, rate=20.0)
    chunks = client_of(founder).chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": LONG}], stream=True, temperature=0
    )
    next(iter(chunks))
    until(lambda: load_of(founder, worker) == 1, "the slot to be taken")
    chunks.close()
    until(lambda: load_of(founder, worker) == 0, "the slot to be free again")
    sampled = worker.metrics()["tether_worker_sampled_tokens_total"]
    assert sampled < 60


def test_each_region_is_served_by_its_own_workers(swarm: LocalSwarm) -> None:
    founder, [worker] = a_swarm(swarm)
    other = swarm.start("us", region="us", ticket=swarm.invite(founder)).wait_ready()
    wait_served(other)
    assert stream(other).tether["workers"] == [other.node_id]
    assert stream(founder).tether["workers"] == [worker.node_id]
    regions = {node["nodeId"]: node["region"] for node in founder.control.get("/nodes")}
    until(lambda: len(founder.control.get("/nodes")) == 3, "the founder to know all three")
    assert set(regions.values()) <= {"eu", "us"}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "nobody-has-this"}, 404, "MODEL_NOT_FOUND"),
        ({"messages": []}, 400, "FIELD_INVALID"),
        ({"max_tokens": -1}, 400, "OUT_OF_RANGE"),
    ],
)
def test_a_bad_request_is_answered_by_the_running_daemon_in_openais_form(
    swarm: LocalSwarm, body: dict[str, object], status: int, code: str
) -> None:
    node = wait_served(swarm.start("alone").wait_ready())
    request = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}], **body}
    with pytest.raises(APIStatusError) as caught:
        client_of(node).post("/chat/completions", body=request, cast_to=object)
    assert caught.value.status_code == status
    assert caught.value.code == code
    if status == 404:
        assert MODEL in str(caught.value)


def test_a_prompt_over_the_context_is_told_both_numbers(swarm: LocalSwarm) -> None:
    founder, _ = a_swarm(swarm)
    with pytest.raises(APIStatusError, match=r"\d+ tokens.*\d+") as caught:
        ask(founder, "word " * 20_000)
    assert (caught.value.status_code, caught.value.code) == (400, "CONTEXT_EXCEEDED")
