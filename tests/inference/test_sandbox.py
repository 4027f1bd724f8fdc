"""A template from anyone: it ends, it makes no more than it may, and what chat templates need works."""

from __future__ import annotations

import threading

import pytest

from inference import sandbox
from inference.sandbox import Sandbox
from inference.time_limit import TimeLimit, TimeLimitExceeded
from p2p.errors import FIELD_INVALID, MODEL_INVALID, TetherError

FOR_EVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLINGS = (
    "{{% set ns = namespace(x='xxxxxxxx') %}}{{% for i in range(99) %}}{{% set ns.x = {} %}}{{% endfor %}}"
)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 10 ** 9 }}",
        "{{ 10 ** 9 * 'x' }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ [0] * 10 ** 9 }}",
        "{{ '%9999999999d' % 1 }}",
        "{{ 'x'.ljust(10 ** 9) }}",
        "{{ '{:>9999999999}'.format('x') }}",
        "{{ 'x' | center(10 ** 9) }}",
        "{{ ('x' * 100000).replace('x', 'y' * 100000) }}",
        "{{ ('x' * 100000) | replace('x', 'y' * 100000) }}",
        "{{ ('x' * 100000).join(range(1000)) }}",
        "{{ range(1000) | join('x' * 100000) }}",
        DOUBLINGS.format("ns.x ~ ns.x"),
        DOUBLINGS.format("ns.x + ns.x"),
        DOUBLINGS.format("[ns.x, ns.x] | join"),
        "{% set x %}xxxxxxxx{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 40 + "{{ x }}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    ],
)
def test_a_template_that_makes_too_much_out_of_little_is_stopped(template: str) -> None:
    with pytest.raises(TetherError) as refused:
        Sandbox(template).render({})
    assert refused.value.code in (FIELD_INVALID, MODEL_INVALID)


def test_one_that_only_loops_is_stopped_and_the_next_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "RENDER_S", 0.05)
    for _ in range(3):
        with pytest.raises(TetherError, match="takes over"):
            Sandbox(FOR_EVER).render({})
        assert Sandbox("{{ x }}").render({"x": "fine"}) == "fine"


def test_the_limit_never_hits_what_comes_after_it() -> None:
    """However close to its end the limit strikes."""
    limit, struck = TimeLimit(0.0005), 0
    for turns in range(400):
        try:
            with limit:
                for _ in range(turns * 40):
                    pass
        except TimeLimitExceeded:
            struck += 1
        assert sum(range(100)) == 4_950
    assert struck < 400


def test_it_strikes_in_the_thread_that_asked_for_it() -> None:
    outcomes: list[str] = []

    def loop(limit: TimeLimit) -> None:
        try:
            with limit:
                while True:
                    pass
        except TimeLimitExceeded:
            outcomes.append("struck")

    limit = TimeLimit(0.02)
    for _ in range(2):
        thread = threading.Thread(target=loop, args=(limit,))
        thread.start()
        thread.join(30)
    assert outcomes == ["struck", "struck"]


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{{ 'a' ~ 1 ~ none }}", "a1None"),
        ("{{ 'a' + 'b' }}{{ 2 + 3 }}{{ [1] + [2] }}", "ab5[1, 2]"),
        ("{{ 3 * 'ab' }}{{ 7 % 4 }}{{ 2 ** 10 }}{{ 0.5 * 4 }}", "ababab310242.0"),
        ("{{ 'a</think>b'.split('</think>')[-1].strip() }}", "b"),
        (
            "{{ 'a-b'.replace('-', '+') }}{{ 'aaa'.replace('a', 'b', 2) }}{{ 'x' | replace('x', 'y') }}",
            "a+bbbay",
        ),
        (
            "{{ ', '.join(['a', 'b']) }}{{ [1, 2] | join('-') }}{{ rows | join('/', attribute='n') }}",
            "a, b1-21/2",
        ),
        ("{% for i in [1, 2, 3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "13"),
        ("{{ rows | tojson }}{{ {'a': 1} | tojson(indent=2) }}", '[{"n": 1}, {"n": 2}]{\n  "a": 1\n}'),
        ("{{ rows | map(attribute='n') | list }}{{ 'Ab' | upper }}{{ ' x ' | trim }}", "[1, 2]ABx"),
        ("{% macro say(x) %}<{{ x }}>{% endmacro %}{{ say('hi') }}", "<hi>"),
        (
            "{%- set ns = namespace(a=0) -%}{% for r in rows %}{% set ns.a = ns.a + r.n %}{% endfor %}{{ ns.a }}",
            "3",
        ),
    ],
)
def test_what_chat_templates_are_made_of_works(template: str, rendered: str) -> None:
    assert Sandbox(template).render({"rows": [{"n": 1}, {"n": 2}]}) == rendered
