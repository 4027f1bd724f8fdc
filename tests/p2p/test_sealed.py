"""The seal: the chosen worker reads the input, the client reads the chunks, and nobody else reads or alters any."""

from __future__ import annotations

import nacl.bindings as sodium
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import DECRYPT_FAILED, TetherError
from p2p.identity import NodeKey
from p2p.sealed import KEY_BYTES, TAG_BYTES, Seal, open_from, seal_to

WORKER, OTHER = NodeKey(b"w" * 32), NodeKey(b"o" * 32)
JOB = b"j" * 32


def sealed(plain: bytes = b"prompt", attempt: int = 1) -> tuple[Seal, bytes]:
    return seal_to(WORKER.sealing_public, JOB, attempt, plain)


def fails(seal: Seal, seq: int, data: bytes) -> bool:
    with pytest.raises(TetherError) as caught:
        seal.open("chunk", seq, data)
    return caught.value.code is DECRYPT_FAILED


@given(st.binary(max_size=2000))
def test_the_worker_opens_what_was_sealed_to_it_and_its_answers_open_at_the_client(plain: bytes) -> None:
    client, wire = sealed(plain)
    worker, opened = open_from(WORKER, JOB, 1, wire)
    assert opened == plain
    assert len(wire) == KEY_BYTES + len(plain) + TAG_BYTES
    assert client.open("chunk", 7, worker.close("chunk", 7, plain)) == plain


@pytest.mark.parametrize(
    ("key", "job", "attempt"), [(OTHER, JOB, 1), (WORKER, b"k" * 32, 1), (WORKER, JOB, 2)]
)
def test_another_worker_job_or_attempt_opens_nothing(key: NodeKey, job: bytes, attempt: int) -> None:
    with pytest.raises(TetherError) as caught:
        open_from(key, job, attempt, sealed()[1])
    assert caught.value.code is DECRYPT_FAILED


@given(st.data())
def test_no_altered_bit_goes_unnoticed(data: st.DataObject) -> None:
    wire = bytearray(sealed()[1])
    wire[data.draw(st.integers(0, len(wire) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(TetherError) as caught:
        open_from(WORKER, JOB, 1, bytes(wire))
    assert caught.value.code is DECRYPT_FAILED


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda tail: bytes(32) + tail))
def test_hostile_bytes_are_refused_whatever_they_are(wire: bytes) -> None:
    with pytest.raises(TetherError) as caught:
        open_from(WORKER, JOB, 1, wire)
    assert caught.value.code is DECRYPT_FAILED


def test_a_chunk_opens_at_its_number_in_its_direction_and_its_stream_only() -> None:
    client, wire = sealed()
    worker, _ = open_from(WORKER, JOB, 1, wire)
    chunk = worker.close("chunk", 3, b"text")
    assert fails(client, 4, chunk)
    assert fails(client, 3, worker.close("input", 3, b"text"))
    assert fails(sealed()[0], 3, chunk)
    assert fails(client, 3, chunk[:-1])


def test_the_same_prompt_never_looks_the_same_twice() -> None:
    assert sealed()[1] != sealed()[1]


def test_another_implementation_opens_the_chunks_by_the_description() -> None:
    client, _ = sealed()
    bound = b"\x00".join((b"tether/seal/1", b"chunk", JOB, b"1", b"5"))
    nonce = (5).to_bytes(24, "big")
    wire = client.close("chunk", 5, b"text")
    opened = sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(wire, bound, nonce, client.to_client)
    assert opened == b"text"
