"""Usage that leaves: whole files, whole objects, rows with an id that stays."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx2
import pytest

from p2p.errors import CALL_LOST, LEDGER_UNAVAILABLE, USAGE, TetherError
from p2p.identity import PeerId
from p2p.membership import SwarmId
from tests.inference.artifacts.test_bucket import bucket
from tests.tetherd.test_admin import FakeOperator
from tetherd.admin import build_admin
from tetherd.store.protocol import UsageRow
from tetherd.usage.export import export
from tetherd.usage.routes import usage_routes
from tetherd.usage.rows import COLUMNS, line, row_shape

__all__ = ["bucket"]

ROW = UsageRow(
    job=b"j" * 32,
    ended=1_700_000_000.5,
    created=1_700_000_000.0,
    tenant="acme",
    key_id="0123456789ab",
    model="tiny",
    region="eu",
    gateway=PeerId("12D3gateway"),
    state="done",
    attempts=1,
    prompt_tokens=5,
    tokens=9,
    micros=1_250_000,
    disputed=False,
)


class Books:
    """An orchestrator with rows, whose ledger goes away after some of them."""

    def __init__(self, rows: int = 3, *, shared: bool = True, away_after: int | None = None) -> None:
        self._rows, self._shared, self._away_after = rows, shared, away_after

    def ledger(self) -> dict[str, Any]:
        return {"shared": self._shared}

    async def usage(self, _since: float, _until: float) -> AsyncIterator[UsageRow]:
        for number in range(self._rows):
            if number == self._away_after:
                raise TetherError(LEDGER_UNAVAILABLE, "It is away.")
            yield dataclasses.replace(ROW, job=bytes([number]) * 32)

    def credentials(self, _peers: Iterable[PeerId]) -> dict[PeerId, bytes]:
        return {}


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def told(books: Books) -> list[dict[str, Any]]:
    app = build_admin(FakeOperator(), [usage_routes(books, SwarmId("swarm"))])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://x") as client:
        answer = await client.get("/usage/rows")
    return [json.loads(text) for text in answer.text.splitlines()]


async def test_json_lines_are_one_row_each_with_the_same_id_each_time(tmp_path: Path) -> None:
    to = tmp_path / "usage.jsonl"
    assert export(iter(await told(Books())), str(to), "jsonl") == 3
    rows = [json.loads(text) for text in to.read_text().splitlines()]
    assert [row["id"] for row in rows] == [
        f"usage_{number:02x}" + f"{number:02x}" * 31 for number in range(3)
    ]
    assert rows[0] == {**row_shape(ROW), "id": rows[0]["id"], "job": rows[0]["job"]}
    assert (rows[0]["ended"], rows[0]["cost"]) == ("2023-11-14T22:13:20.500+00:00", "1.25")
    assert names(tmp_path) == ["usage.jsonl"]


async def test_csv_has_a_heading_and_every_column(tmp_path: Path) -> None:
    to = tmp_path / "usage.csv"
    export(iter(await told(Books())), str(to), "csv")
    with to.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 3 and tuple(found[0]) == COLUMNS
    assert (found[0]["tenant"], found[0]["tokens"], found[0]["cost"]) == ("acme", "9", "1.25")


def test_a_name_that_a_spreadsheet_would_compute_is_no_formula() -> None:
    evil = {**row_shape(ROW), "model": '=HYPERLINK("http://x")'}
    assert ",\"'=HYPERLINK" in line(evil, "csv")
    assert json.loads(line(evil, "jsonl"))["model"] == '=HYPERLINK("http://x")'


async def test_what_breaks_off_leaves_the_old_file(tmp_path: Path) -> None:
    to = tmp_path / "usage.jsonl"
    to.write_text("old")

    def broken() -> Iterator[dict[str, Any]]:
        yield row_shape(ROW)

    with pytest.raises(TetherError) as caught:
        export(broken(), str(to), "jsonl")
    assert caught.value.code is CALL_LOST
    assert to.read_text() == "old" and len(names(tmp_path)) == 1


async def test_a_ledger_that_goes_away_in_the_middle_says_so_in_the_last_line() -> None:
    lines = await told(Books(away_after=2))
    assert len(lines) == 3 and lines[-1]["error"]["code"] == "LEDGER_UNAVAILABLE"


async def test_the_embedded_ledger_asks_for_postgresql_in_one_sentence() -> None:
    [refused] = await told(Books(shared=False))
    assert refused["error"]["code"] == "CONFIG_INVALID"
    assert "--store postgresql://" in refused["error"]["message"]


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TetherError) as caught:
        export(iter(await told(Books())), str(tmp_path / "nowhere" / "usage.csv"), "csv")
    assert (caught.value.code, caught.value.field) == (USAGE, "to")


async def test_rows_go_into_a_bucket(bucket: dict[str, str]) -> None:
    rows = await told(Books())
    assert export(iter(rows), "s3://models/usage/november.csv", "csv", bucket) == 3
    client = boto3.client(
        "s3",
        endpoint_url=bucket["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="id",
        aws_secret_access_key="secret",
    )
    there = client.get_object(Bucket="models", Key="usage/november.csv")["Body"].read().decode()
    assert there.count("\n") == 4 and there.startswith("id,job,")


async def test_a_bucket_that_is_not_there_is_an_error_that_names_it(bucket: dict[str, str]) -> None:
    with pytest.raises(TetherError) as caught:
        export(iter(await told(Books())), "s3://nowhere/usage.csv", "csv", bucket)
    assert caught.value.field == "to" and "s3://nowhere/usage.csv" in caught.value.detail
