from __future__ import annotations

from typing import Any

import pytest

from p2p.identity import PeerId
from p2p.membership import Papers
from p2p.messages import Presence
from tests.topics import transcript
from tests.topics.world import Person, health, here, person
from topics.announce import Author, Checked
from topics.names import presence
from topics.view import DETAILED_MEMBERS, MAX_ROSTER, MAX_ROSTER_BYTES, Change, Page, View


def said(who: Person, message: Presence, *, ttl_s: float = 30.0) -> Checked:
    announcement = who.says(message, ttl_s=ttl_s)
    return Checked(who.member, presence(message.region), message, announcement)


class ViewPlayer:
    """Plays `announce NAME [inc=] [state=] [region=] [ttl=] [copy]`, `heard`, `roster REGION SINCE` and so on."""

    def __init__(self) -> None:
        self._view = View(PeerId("me"))
        self._people: dict[str, Person] = {}
        self._names: dict[PeerId, str] = {}

    def tick(self, now: float) -> list[str]:
        return self._shown(self._view.tick(now))

    def play(self, words: list[str], now: float) -> list[str]:
        match words:
            case ["announce", name, *options]:
                return self._shown(self._announce(name, options, now))
            case ["heard", name]:
                return self._shown(self._view.heard(self._people[name].peer, now))
            case ["doubt", name]:
                return self._shown(self._view.doubt(self._people[name].peer, now))
            case ["closed", name]:
                self._view.closed(self._people[name].peer, now)
                return []
            case ["roster", region, since]:
                page = self._view.roster(region, int(since))
                names = " ".join(self._names[told.envelope.node_id] for told in page.members)
                gone = " ".join(self._names[peer] for peer in page.gone)
                return [f"tells: {names or '-'}; gone: {gone or '-'}; up to {page.revision}"]
            case ["credit", name, teller]:
                self._view.credit(self._people[name].peer, PeerId(teller))
                return []
            case ["vouch", teller]:
                return self._shown(self._view.vouch("eu", PeerId(teller), now))
            case ["retract", name, teller]:
                return self._shown(self._view.retract(self._people[name].peer, PeerId(teller), now))
            case ["discredit", teller]:
                self._view.discredit("eu", PeerId(teller))
                return []
            case _:
                raise ValueError(f"no such event: {words}")

    def _announce(self, name: str, options: list[str], now: float) -> list[Change]:
        given: dict[str, str] = dict(option.split("=") for option in options if "=" in option)
        known = self._people.get(name) or person(name, regions=("eu", "us"), incarnation=1)
        if "inc" in given:
            author = Author(known.key, Papers(known.member), int(given["inc"]))
            known = Person(known.key, known.member, author)
        self._people[name] = known
        self._names[known.peer] = name
        message = here(given.get("region", "eu"), state=given.get("state", "ready"))
        checked = said(known, message, ttl_s=float(given.get("ttl", "30")))
        return self._view.observe(checked, now, copy="copy" in options)

    def _shown(self, changes: list[Change]) -> list[str]:
        return [
            f"{self._names[change.peer]}: {change.before or 'unknown'} -> {change.after or 'forgotten'}"
            for change in changes
        ]


@pytest.mark.parametrize("name", transcript.named("view"))
def test_the_view_plays_as_written(name: str) -> None:
    transcript.check(name, ViewPlayer())


def test_there_are_transcripts() -> None:
    assert transcript.named("view")
    assert transcript.named("election")


def test_an_announcement_that_is_not_newer_changes_nothing() -> None:
    ann, view = person("ann"), View(PeerId("me"))
    old, new = said(ann, here(version="old")), said(ann, here(version="new"))
    view.observe(new, 0.0)
    assert view.observe(old, 1.0) == []
    assert view.observe(new, 1.0) == []
    known = view.get(ann.peer)
    assert known is not None
    assert (known.presence.version, known.last_seen, known.number) == ("new", 0.0, (1, 2))


def test_a_new_incarnation_overrules_every_number_of_the_last() -> None:
    ann, view = person("ann", incarnation=1), View(PeerId("me"))
    for _ in range(5):
        view.observe(said(ann, here()), 0.0)
    view.observe(said(person("ann", incarnation=2), here()), 1.0)
    known = view.get(ann.peer)
    assert known is not None
    assert known.number == (2, 1)


def test_workers_are_those_that_serve_now() -> None:
    view = View(PeerId("me"))
    for name, changes in {"a": {}, "b": {"state": "draining"}, "c": {}, "d": {}}.items():
        who = person(name)
        view.observe(said(who, here(roles=("worker",), health=health(who.peer), **changes)), 0.0)
    view.observe(said(person("e"), here()), 0.0)
    view.doubt(person("c").peer, 1.0)
    assert {known.peer for known in view.workers("eu")} == {person("a").peer, person("d").peer}
    assert view.workers("us") == []


def test_candidates_run_the_role() -> None:
    view = View(PeerId("me"))
    view.observe(said(person("a"), here()), 0.0)
    view.observe(said(person("b"), here(roles=("gateway",))), 0.0)
    assert [known.peer for known in view.candidates("eu")] == [person("a").peer]


def test_this_node_never_suspects_itself_by_silence() -> None:
    ann = person("ann")
    view = View(ann.peer)
    view.observe(said(ann, here()), 0.0)
    for half_seconds in range(200):
        assert view.tick(half_seconds / 2) == []


def test_a_full_view_lets_the_longest_dead_go_and_nobody_else() -> None:
    view: Any = View(PeerId("me"), limit=3)
    for name in "abc":
        view.observe(said(person(name), here()), 0.0)
    assert view.observe(said(person("d"), here()), 1.0) == []
    for at, name in enumerate("ba"):
        view.observe(said(person(name, incarnation=2), here(state="leaving")), float(at))
    view.observe(said(person("d"), here()), 3.0)
    assert {known.peer for known in view.members()} == {person(name).peer for name in "acd"}


def test_a_roster_comes_in_pages_that_miss_nothing() -> None:
    view = View(PeerId("me"))
    people = [person(f"n{index}") for index in range(MAX_ROSTER + 50)]
    for who in people:
        view.observe(said(who, here()), 0.0)
    first = view.roster("eu", 0)
    second = view.roster("eu", first.revision)
    assert (len(first.members), first.more) == (MAX_ROSTER, True)
    assert (len(second.members), second.more) == (50, False)
    told = {announcement.envelope.node_id for announcement in first.members + second.members}
    assert told == {who.peer for who in people}
    assert view.roster("eu", second.revision) == Page((), (), second.revision, more=False)


def test_in_a_large_region_a_changed_load_is_no_news_but_a_changed_model_is() -> None:
    view = View(PeerId("me"))
    people = [person(f"n{index}", roles=("worker",)) for index in range(DETAILED_MEMBERS + 1)]
    for who in people:
        view.observe(said(who, here(roles=("worker",), health=health(who.peer))), 0.0)
    before = max(known.revision for known in view.members())
    for who in people:
        view.observe(said(who, here(roles=("worker",), health=health(who.peer, load=1))), 1.0)
    assert view.roster("eu", before).members == ()
    first = people[0]
    view.observe(said(first, here(roles=("worker",), health=health(first.peer, model_cache=()))), 2.0)
    view.doubt(people[1].peer, 2.0)
    page = view.roster("eu", before)
    assert [told.envelope.node_id for told in page.members] == [first.peer]
    assert page.gone == (people[1].peer,)


def test_a_roster_stays_inside_a_frame_whatever_its_members_announce() -> None:
    view = View(PeerId("me"))
    for index in range(100):
        view.observe(said(person(f"n{index}"), here(version="v" * 15_000)), 0.0)
    since = 0
    pages: list[Page] = []
    while not pages or pages[-1].more:
        pages.append(view.roster("eu", since))
        since = pages[-1].revision
    assert sum(len(page.members) for page in pages) == 100
    assert all(sum(len(told.envelope.payload) for told in page.members) <= MAX_ROSTER_BYTES for page in pages)
