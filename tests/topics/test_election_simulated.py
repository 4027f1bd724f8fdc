"""What the election promises under a bad network. The seed of a failure is in the name of the failed test."""

from __future__ import annotations

import pytest

from tests.topics.simulator import Region, Weather
from topics.election import LAN, SEASON_S, TOP, WAN, Pulse

FAIR = Weather(median_s=0.15, loss=0.01)
STORM = Weather(median_s=0.4, loss=0.10)
SETTLED_S = SEASON_S + 5.0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("pulse", "weather", "limit_s"),
    [(LAN, FAIR, 3.5), (LAN, STORM, 6.0), (WAN, FAIR, 5.5), (WAN, STORM, 8.0)],
    ids=["lan-fair", "lan-storm", "wan-fair", "wan-storm"],
)
def test_everybody_follows_the_next_one_soon_after_the_leader_crashed(
    seed: int, pulse: Pulse, weather: Weather, limit_s: float
) -> None:
    region = Region(seed, 20, pulse, weather)
    region.run(SETTLED_S)
    crashed_at = region.clock
    region.crash(region.ranked[0])
    region.run(crashed_at + limit_s)
    assert region.ranked[0] not in region.first_leaders()
    if weather is FAIR:
        assert region.first_leaders() == {region.ranked[1]}


@pytest.mark.parametrize("seed", range(4))
def test_nobody_s_leader_flaps_in_five_minutes_of_fair_weather(seed: int) -> None:
    region = Region(seed, 7, LAN, FAIR)
    region.run(SETTLED_S)
    settled = len(region.history)
    firsts = region.first_leaders()
    region.run(SETTLED_S + 300)
    later = [entry for entry in region.history[settled:] if entry[2][:1] != (region.ranked[0],)]
    assert later == []
    assert region.first_leaders() == firsts == {region.ranked[0]}


@pytest.mark.parametrize("seed", range(10))
def test_both_sides_of_a_partition_are_led_and_agree_again_after_it_heals(seed: int) -> None:
    region = Region(seed, 16, LAN, FAIR)
    region.run(SETTLED_S)
    region.divide(0.5)
    region.run(SETTLED_S + 10)
    assert None not in region.first_leaders()
    assert len(region.first_leaders()) == 2
    region.heal()
    region.run(region.clock + LAN.dead_s + 2 * LAN.interval_s)
    assert region.first_leaders() == {region.ranked[0]}


@pytest.mark.parametrize("nodes", [5, 50, 150])
def test_only_the_top_send_heartbeats_however_many_stand(nodes: int) -> None:
    region = Region(1, nodes, LAN, FAIR)
    region.run(SETTLED_S)
    before = region.beats_sent
    region.run(region.clock + 10)
    assert (region.beats_sent - before) / (10 / LAN.interval_s) <= TOP + 0.6


@pytest.mark.parametrize("seed", range(6))
def test_a_region_that_loses_all_its_leaders_has_new_ones(seed: int) -> None:
    region = Region(seed, 20, LAN, FAIR)
    region.run(SETTLED_S)
    for peer in region.ranked[:TOP]:
        region.crash(peer)
    region.run(region.clock + 5)
    assert region.first_leaders() == {region.ranked[TOP]}
