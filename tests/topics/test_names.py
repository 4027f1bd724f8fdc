from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import FIELD_INVALID, TetherError
from p2p.identity import NodeKey
from p2p.membership import swarm_id_of
from topics import names
from topics.names import CATALOGUE, Topic, control, models, parse, presence

ONE, OTHER = swarm_id_of(NodeKey(b"\x01" * 32)), swarm_id_of(NodeKey(b"\x02" * 32))
TOPICS = [
    presence("eu"),
    control("us-1"),
    models("tiny", "1.0", "eu"),
    models("org/Tiny-2:8b", "v1", "eu"),
    CATALOGUE,
]


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_a_topic_is_read_back_from_its_name(topic: Topic) -> None:
    assert parse(topic.name) == topic


def test_the_names_are_those_of_the_design() -> None:
    assert [topic.name for topic in TOPICS[:3]] == [
        "tether/presence/eu",
        "tether/control/us-1",
        "tether/models/tiny/1.0/eu",
    ]


def test_two_swarms_never_meet() -> None:
    keys = {topic.key(swarm) for topic in TOPICS for swarm in (ONE, OTHER)}
    assert len(keys) == 2 * len(TOPICS)
    assert {len(key) for key in keys} == {32}


def test_neither_model_nor_region_is_in_the_mesh_name() -> None:
    assert "tiny" not in models("tiny", "1", "eu").gossip_id(ONE)


@pytest.mark.parametrize("region", ["", "EU", "eu/1", "-eu", "eu-", "e" * 33, "e u", "eu\n", "ü"])
def test_a_malformed_region_is_refused(region: str) -> None:
    with pytest.raises(TetherError) as caught:
        presence(region)
    assert caught.value.code is FIELD_INVALID
    assert caught.value.field == "region"


@pytest.mark.parametrize("model", ["", "/a", "a/", "a//b", "a b", ".a", "a" * 129, "a\n"])
def test_a_malformed_model_is_refused(model: str) -> None:
    with pytest.raises(TetherError):
        models(model, "1", "eu")


@pytest.mark.parametrize("version", ["", "1/2", " 1", "1" * 65])
def test_a_malformed_version_is_refused(version: str) -> None:
    with pytest.raises(TetherError):
        models("tiny", version, "eu")


@given(st.text() | st.lists(st.sampled_from(["tether", "presence", "models", "eu", "a", ""])).map("/".join))
def test_any_text_is_a_topic_or_a_clear_error(text: str) -> None:
    try:
        topic = parse(text)
    except TetherError as error:
        assert error.code is FIELD_INVALID
    else:
        assert topic.name == text


def test_every_check_returns_what_it_checked() -> None:
    assert (names.check_region("eu"), names.check_model("m"), names.check_version("1")) == ("eu", "m", "1")
