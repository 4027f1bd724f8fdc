"""Which schemas are taken, and that a hostile one costs nothing but its refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.json_schema import MAX_READINGS, MAX_SCHEMA_BYTES, check_schema
from p2p.errors import FIELD_INVALID, TetherError

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {"node": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/node"}}]}},
}


def doubling(levels: int) -> dict[str, Any]:
    """Each name is one of two of the next: two to the power of levels in a few hundred bytes."""
    named: dict[str, Any] = {
        f"n{level}": {"anyOf": [{"$ref": f"#/$defs/n{level + 1}"}] * 2} for level in range(levels)
    }
    return {"$ref": "#/$defs/n0", "$defs": {**named, f"n{levels}": {"type": "string"}}}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": ["string", "null"]},
        {"type": "object", "properties": {"pattern": {"type": "string"}, "not": {"enum": ["if"]}}},
        {"enum": [{"pattern": "^x$"}, ["not"]]},
        TREE,
        doubling(7),
        nested(20),
        {
            "type": "array",
            "items": {"anyOf": [{"const": number} for number in range(200)]},
            "maxItems": 1_000,
        },
    ],
    ids=lambda schema: json.dumps(schema)[:40],
)
def test_a_schema_within_bounds_is_taken_as_it_stands(schema: dict[str, Any]) -> None:
    assert json.loads(check_schema(json.dumps(schema))) == schema


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ([], "object"),
        ({"type": "string", "pattern": "^(a+)+$"}, "pattern"),
        ({"type": "object", "patternProperties": {}}, "patternProperties"),
        ({"not": {"type": "string"}}, "not"),
        ({"properties": {"x": {"type": "array", "maxItems": 10**9}}}, "maxItems"),
        ({"minLength": -1}, "minLength"),
        ({"minLength": "1"}, "minLength"),
        ({"$ref": "https://example.org/schema.json"}, "into the schema itself"),
        ({"$ref": "file:///etc/passwd"}, "into the schema itself"),
        ({"$ref": 7}, "into the schema itself"),
        ({"$ref": "#/$defs/none"}, "nowhere"),
        (nested(60), "deep"),
        ({"properties": {str(number): {} for number in range(1_200)}}, "parts"),
        (doubling(9), "choices"),
        ({"anyOf": [{"anyOf": [{"type": ["null", "string"]}] * 20}] * 20}, "choices"),
        ({"description": "x" * MAX_SCHEMA_BYTES}, "bytes"),
    ],
    ids=lambda part: json.dumps(part)[:40],
)
def test_a_schema_out_of_bounds_is_refused_with_the_reason(schema: Any, why: str) -> None:
    with pytest.raises(TetherError, match=why) as caught:
        check_schema(json.dumps(schema))
    assert (caught.value.code, caught.value.field) == (FIELD_INVALID, "response_format")


@pytest.mark.parametrize("levels", [20, 300])
def test_two_to_the_power_of_many_readings_are_refused_at_once(levels: int) -> None:
    with pytest.raises(TetherError, match=r"choices|deep"):
        check_schema(json.dumps(doubling(levels)))
    assert MAX_READINGS < 2**9


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["type", "anyOf", "items", "properties", "$ref", "$defs", "maxItems", "enum", "x"]
            ),
            inner,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_whatever_json_comes_is_taken_or_refused(value: Any) -> None:
    try:
        assert json.loads(check_schema(json.dumps(value))) == value
    except TetherError as error:
        assert error.code is FIELD_INVALID


@given(st.text(max_size=200))
def test_whatever_text_comes_is_taken_or_refused(text: str) -> None:
    try:
        check_schema(text)
    except TetherError as error:
        assert error.code is FIELD_INVALID
