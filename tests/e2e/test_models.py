"""Models that travel between real daemons: published on one, fetched and served by others, by whoever has them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cli.local_swarm import LocalNode, LocalSwarm, until
from inference.demo import MODEL_PATH
from p2p.errors import SIGNER_UNTRUSTED, TetherError
from tests.e2e.asking import client_of


def work(node: LocalNode, path: str, order: dict[str, Any]) -> dict[str, Any]:
    """Long work, to its end. Raises TetherError as tetherctl does."""
    name = node.control.post(path, order)["work"]
    events = list(node.control.follow(f"/work/{name}/events"))
    done = [event["doneBytes"] for event in events]
    assert done == sorted(done) or len({event["sizeBytes"] for event in events}) > 1, "never backwards"
    shown = node.control.get(f"/work/{name}")
    assert shown == events[-1]
    if shown["error"] is not None:
        raise AssertionError(shown["error"])
    result: dict[str, Any] = shown["result"]
    return result


def answer(node: LocalNode, model: str) -> str:
    told = client_of(node).chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Count from 1 to 5."}], temperature=0
    )
    return told.choices[0].message.content or ""


def a_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(MODEL_PATH, folder / "Tiny Model.gguf"))


def test_a_published_model_is_fetched_from_whoever_has_it_and_served(swarm: LocalSwarm) -> None:
    founder = swarm.start("founder", roles="gateway,orchestrator").wait_ready()
    published = work(founder, "/publish", {"source": str(a_model(swarm.root / "made")), "version": "1"})
    assert (published["model"], published["here"]) == ("tiny-model@1", True)
    ticket = swarm.invite(founder)
    first = swarm.start("first", ticket=ticket, roles="worker", models=["tiny-model@1"]).wait_ready()
    served = until(lambda: founder.control.get("/models"), "a worker of the model")
    assert [(one["name"], one["version"], one["digest"]) for one in served] == [
        ("tiny-model", "1", published["digest"])
    ]
    text = answer(founder, "tiny-model")
    assert "3" in text

    size = MODEL_PATH.stat().st_size
    assert founder.metrics()["tether_models_lent_bytes_total"] >= size
    assert first.metrics()['tether_models_fetched_bytes_total{kind="peer"}'] == size
    assert first.metrics()["tether_models_kept_bytes"] == size

    removed = founder.control.post("/cache/gc", {})
    assert [one["models"] for one in removed] == [["tiny-model@1"]]
    assert founder.control.get("/cache") == []
    second = swarm.start("second", ticket=ticket, roles="worker", models=["tiny-model@1"]).wait_ready()
    assert [one["state"] for one in second.control.get("/cache")] == ["whole"]
    first.terminate()
    assert first.wait() == 0
    assert answer(founder, "tiny-model") == text
    assert founder.control.post("/alias", {"name": "chat", "model": "tiny-model@1"})["workers"] == 1
    [copies] = founder.control.get("/copies")
    assert (copies["model"], copies["wanted"]) == ("tiny-model@1", 3) and copies["held"] >= 1
    assert answer(founder, "chat") == text
    shown = founder.control.get("/catalogue/chat")
    assert second.node_id in shown["holders"] and shown["aliases"] == ["chat"]
    assert founder.control.post("/catalogue/tiny-model@1/retire")["state"] == "retired"
    assert answer(founder, "chat") == text
    with pytest.raises(AssertionError, match="was retired"):
        work(founder, "/pull", {"model": "tiny-model@1"})


def test_only_those_whom_the_founder_trusts_publish_and_only_as_long(swarm: LocalSwarm) -> None:
    founder = swarm.start("founder").wait_ready()
    other = swarm.start("other", ticket=swarm.invite(founder), roles="gateway").wait_ready()
    order = {"source": str(a_model(swarm.root / "made")), "name": "mine", "version": "1"}
    with pytest.raises(AssertionError, match=SIGNER_UNTRUSTED.name):
        work(other, "/publish", order)
    with pytest.raises(TetherError, match="founded the swarm"):
        other.control.post("/trust", {"publisher": other.node_id})
    founder.control.post("/trust", {"publisher": other.node_id})
    published = work(other, "/publish", order)
    assert published["publisher"] == other.node_id
    pulled = work(founder, "/pull", {"model": "mine"})
    assert Path(pulled["path"]).read_bytes() == MODEL_PATH.read_bytes()
    with pytest.raises(TetherError, match="only that node can retire"):
        founder.control.post("/catalogue/mine@1/retire")
    founder.control.post("/trust", {"publisher": other.node_id, "revoked": True})
    assert founder.control.get("/catalogue") == []
    with pytest.raises(AssertionError, match="Nobody knows mine@1"):
        work(founder, "/pull", {"model": "mine@1"})


def test_a_model_that_nobody_published_ends_the_start_with_a_sentence(swarm: LocalSwarm) -> None:
    founder = swarm.start("founder").wait_ready()
    lost = swarm.start("lost", ticket=swarm.invite(founder), roles="worker", models=["nothing@1"])
    assert lost.wait() == 1
    assert "Nobody knows nothing@1" in lost.log.read_text("utf-8")
