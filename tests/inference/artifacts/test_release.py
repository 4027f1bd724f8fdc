"""Releases: only of whom the authority trusts, only plain files, the same model for the same files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from inference.artifacts.chunks import MIN_CHUNK_BYTES, Blob
from inference.artifacts.release import (
    Alias,
    Release,
    ReleaseFile,
    SignedRelease,
    check_alias,
    check_release,
    check_revocation,
    check_trust,
    revoke,
    sign_alias,
    sign_release,
    trust,
)
from p2p.errors import MODEL_INVALID, SIGNER_UNTRUSTED, WRONG_SWARM, TetherError
from p2p.identity import NodeKey
from p2p.membership import swarm_id_of
from p2p.wire import encode

AUTHORITY, PUBLISHER, STRANGER = (NodeKey(bytes([n]) * 32) for n in (1, 2, 3))
SWARM = swarm_id_of(AUTHORITY)
TRUSTED = trust(AUTHORITY, PUBLISHER.node_id, 1_000.0)
BLOB = Blob("ab" * 32, 5, MIN_CHUNK_BYTES, bytes(32))
RELEASE = Release(SWARM, "demo", "1", "llama.cpp", (ReleaseFile("demo.gguf", BLOB),), 512, 2_000.0)


def refusal(signed: SignedRelease, **known: object) -> object:
    with pytest.raises(TetherError) as refused:
        check_release(signed, SWARM, **known)  # type: ignore[arg-type]
    return refused.value.code


def test_what_a_trusted_publisher_signed_is_believed() -> None:
    published = check_release(sign_release(PUBLISHER, RELEASE, TRUSTED), SWARM)
    assert (published.release, published.publisher) == (RELEASE, PUBLISHER.node_id)
    assert published.reference == "demo@1"
    assert published.release.size == 5


def test_a_model_without_a_chat_template_only_completes_text() -> None:
    assert replace(RELEASE, chat_template="").capabilities == ("completions",)
    assert "chat" in replace(RELEASE, chat_template="ab" * 32).capabilities


def test_the_same_files_are_the_same_model_whoever_published_them_and_when() -> None:
    later = replace(RELEASE, created=9_000.0, licence="MIT", supersedes="0")
    assert later.manifest.digest == RELEASE.manifest.digest


def test_nobody_else_is_believed() -> None:
    good = sign_release(PUBLISHER, RELEASE, TRUSTED)
    own = trust(STRANGER, STRANGER.node_id, 1_000.0)
    assert refusal(sign_release(STRANGER, RELEASE, TRUSTED)) is SIGNER_UNTRUSTED
    assert refusal(sign_release(STRANGER, RELEASE, b"")) is SIGNER_UNTRUSTED
    assert refusal(sign_release(STRANGER, RELEASE, own)) is WRONG_SWARM
    assert refusal(replace(good, publisher=STRANGER.node_id)) is SIGNER_UNTRUSTED
    assert refusal(replace(good, signature=bytes(64))) is SIGNER_UNTRUSTED
    assert refusal(replace(good, body=encode(replace(RELEASE, version="2")))) is SIGNER_UNTRUSTED
    assert refusal(good, revoked={PUBLISHER.node_id}) is SIGNER_UNTRUSTED


def test_a_trust_is_no_revocation_nor_the_other_way_round() -> None:
    revoked = revoke(AUTHORITY, PUBLISHER.node_id, 3_000.0)
    assert check_revocation(revoked, SWARM) == check_trust(TRUSTED, SWARM) == PUBLISHER.node_id
    for check, word in ((check_trust, revoked), (check_revocation, TRUSTED)):
        with pytest.raises(TetherError) as refused:
            check(word, SWARM)
        assert refused.value.code is SIGNER_UNTRUSTED


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Demo"},
        {"name": ""},
        {"name": "../demo"},
        {"version": "a/b"},
        {"version": ""},
        {"files": ()},
        {"files": (ReleaseFile("a.gguf", BLOB),) * 2},
        {"files": tuple(ReleaseFile(f"{n}.gguf", BLOB) for n in range(65))},
        {"files": (ReleaseFile("../a.gguf", BLOB),)},
        {"files": (ReleaseFile("/etc/a.gguf", BLOB),)},
        {"files": (ReleaseFile("a/b.gguf", BLOB),)},
        {"files": (ReleaseFile(".gguf", BLOB),)},
        {"files": (ReleaseFile("a.gguf\n", BLOB),)},
        {"files": (ReleaseFile("weights.pkl", BLOB),)},
        {"files": (ReleaseFile("pytorch_model.bin", BLOB),)},
        {"files": (ReleaseFile("run.py", BLOB),)},
        {"files": (ReleaseFile("a.gguf", replace(BLOB, size=0)),)},
        {"licence": "x" * 257},
    ],
)
def test_what_is_out_of_bounds_is_refused_even_if_it_is_signed(changes: dict[str, object]) -> None:
    assert refusal(sign_release(PUBLISHER, replace(RELEASE, **changes), TRUSTED)) is MODEL_INVALID


def test_a_release_of_another_swarm_is_none_of_ours() -> None:
    other = replace(RELEASE, swarm_id=swarm_id_of(STRANGER))
    assert refusal(sign_release(PUBLISHER, other, TRUSTED)) is WRONG_SWARM


@given(st.binary(max_size=200), st.binary(max_size=80), st.binary(max_size=120))
def test_hostile_bytes_are_refused_by_a_code(body: bytes, signature: bytes, trusted: bytes) -> None:
    for word in (trusted, TRUSTED):
        with pytest.raises(TetherError):
            check_release(SignedRelease(body, PUBLISHER.node_id, signature, word), SWARM)


def test_an_alias_is_its_publishers_word_and_no_release() -> None:
    alias = Alias(SWARM, "chat", "demo@1", 3_000.0)
    assert check_alias(sign_alias(PUBLISHER, alias, TRUSTED), SWARM) == alias
    assert refusal(sign_alias(PUBLISHER, alias, TRUSTED)) is SIGNER_UNTRUSTED
    for wrong in (replace(alias, name="../x"), replace(alias, model="demo"), replace(alias, model="demo@")):
        with pytest.raises(TetherError) as refused:
            check_alias(sign_alias(PUBLISHER, wrong, TRUSTED), SWARM)
        assert refused.value.code is MODEL_INVALID
    with pytest.raises(TetherError) as refused:
        check_alias(sign_alias(STRANGER, alias, TRUSTED), SWARM)
    assert refused.value.code is SIGNER_UNTRUSTED
