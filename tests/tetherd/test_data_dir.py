"""The data directory: locked while a daemon runs, whole after every write."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from p2p.errors import DATA_DIR_BUSY, DATA_DIR_INVALID, TetherError
from p2p.identity import PeerId
from p2p.membership import SwarmId
from p2p.transport import PeerAddress
from tetherd.data_dir import DataDir, SpentInvites, Standing


def test_a_second_daemon_on_the_same_directory_is_refused_and_names_the_first(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "node")
    with (
        data.lock(),
        pytest.raises(TetherError, match=r"process \d+") as caught,
        DataDir(tmp_path / "node").lock(),
    ):
        pass
    assert caught.value.code is DATA_DIR_BUSY


def test_the_lock_is_free_again_afterwards_and_its_files_are_gone(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    with data.lock():
        data.write_http_addr("http://127.0.0.1:1")
    with data.lock():
        assert not data.http_addr.exists()


def test_keys_are_made_once_and_only_their_owner_can_read_them(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    assert data.key() == data.key()
    assert stat.S_IMODE((tmp_path / "identity.key").stat().st_mode) == 0o600


def test_a_cut_key_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "identity.key").write_bytes(b"short")
    with pytest.raises(TetherError, match=r"identity\.key is not a node key") as caught:
        DataDir(tmp_path).key()
    assert caught.value.code is DATA_DIR_INVALID


def test_incarnations_only_grow_even_if_the_clock_goes_back(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    assert data.next_incarnation(now=1_000.0) == 1_000
    assert data.next_incarnation(now=500.0) == 1_001
    assert data.next_incarnation(now=2_000.0) == 2_000


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    standing = Standing(SwarmId("ab" * 32), b"credential", b"issuer")
    peers = [PeerAddress(PeerId("12D3"), ("/ip4/127.0.0.1/tcp/1",))]
    spent = SpentInvites({"aa": ("12D3",)})
    data.save_standing(standing)
    data.save_known_peers([*peers, PeerAddress(PeerId("nowhere"))])
    data.save_spent_invites(spent)
    assert (data.standing(), data.known_peers(), data.spent_invites()) == (standing, peers, spent)


def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "standing").write_bytes(b"\x93garbage")
    with pytest.raises(TetherError, match="standing is damaged"):
        DataDir(tmp_path).standing()


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TetherError) as caught, DataDir(tmp_path / "file" / "node").lock():
        pass
    assert caught.value.code is DATA_DIR_INVALID
