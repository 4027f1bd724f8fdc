"""What a worker offers of what --model names, before any of its engines runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio

from inference.demo import MODEL_NAME, MODEL_PATH
from inference.engine_room import EngineRoom, NoRoomMetrics
from p2p.errors import CONFIG_INVALID, TetherError
from tetherd.config import WorkerConfig
from tetherd.models import ModelHouse


class Told:
    """Phases, as they were told."""

    def __init__(self) -> None:
        self.details: list[str] = []
        self.fractions: list[float] = []

    def begin(self, region: str) -> None: ...

    def reached(self, phase: str, detail: str) -> None:
        self.details.append(f"{phase}: {detail}")

    def progress(self, phase: str, fraction: float, detail: str) -> None:
        self.fractions.append(fraction)

    def notice(self, text: str) -> None: ...


def copy(folder: Path, name: str) -> str:
    return str(shutil.copy(MODEL_PATH, folder / f"{name}.gguf"))


async def opened(config: WorkerConfig, told: Told) -> EngineRoom:
    """Run a house until its first engines are there, then end it. Raises its TetherError."""
    house = ModelHouse(config, told, NoRoomMetrics())
    room: list[EngineRoom] = []
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.run)
            with trio.fail_after(60):
                room.append(await house.wait())
            assert house.lending() is not None
            nursery.cancel_scope.cancel()
    except* TetherError as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    return room[0]


async def test_the_first_model_is_loaded_and_the_next_one_waits_for_room(tmp_path: Path) -> None:
    told = Told()
    config = WorkerConfig(models=(MODEL_NAME, copy(tmp_path, "other")), memory_gb=0.2, exact="off")
    room = await opened(config, told)
    assert room.budget_bytes == 200_000_000
    first, second = told.details
    assert MODEL_NAME in first and "not exact" in first
    assert second.startswith("model: other@") and "loaded when it is asked for" in second
    assert max(told.fractions) == 1.0


async def test_all_are_loaded_where_there_is_room(tmp_path: Path) -> None:
    told = Told()
    config = WorkerConfig(models=(MODEL_NAME, copy(tmp_path, "other")), memory_gb=1.0, slots=2, exact="off")
    room = await opened(config, told)
    assert all("asked for" not in detail for detail in told.details)
    assert room.slots == dict.fromkeys(room.slots, 2)


async def test_memory_that_no_engine_can_do_with_is_an_error_with_both_numbers() -> None:
    with pytest.raises(
        TetherError, match=r"tether-demo needs at least 0\.1\d GB, and --memory lends 0\.01"
    ) as wrong:
        await opened(WorkerConfig(memory_gb=0.01), Told())
    assert (wrong.value.code, wrong.value.field) == (CONFIG_INVALID, "worker.memory_gb")


async def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    one, two = copy(tmp_path, "twin"), tmp_path / "below"
    two.mkdir()
    with pytest.raises(TetherError, match="twin"):
        await opened(WorkerConfig(models=(one, copy(two, "twin"))), Told())
