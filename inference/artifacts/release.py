"""What a publisher says that a model is: its files by content, signed, by somebody whom the swarm's authority trusts.

    authority ── signs ──> Trust {publisher} ── is carried by ──> SignedRelease {Release}, which the publisher signs
        └─ signs ──> Revocation {publisher, since}: what that publisher signed is worth nothing any more

Pure: signatures and dates, no clock, no files, no network. Whoever has the swarm's id checks all of it offline.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, TypeVar

from inference.artifacts.chunks import Blob, check_blob
from inference.manifest import EngineKind, Manifest, ManifestFile
from p2p.errors import MODEL_INVALID, SIGNER_UNTRUSTED, WRONG_SWARM, TetherError
from p2p.identity import NodeKey, PeerId, public_key_of, verify
from p2p.membership import SwarmId, swarm_id_of
from p2p.messages import Message
from p2p.wire import decode, encode

MAX_FILES: Final = 64
MAX_RELEASE_BYTES: Final = 1 << 20
MAX_TEXT_CHARS: Final = 256
MAX_ORIGINS: Final = 8
MAX_URL_CHARS: Final = 2_048
SUFFIXES: Final = (".gguf", ".safetensors", ".json", ".model", ".txt", ".jinja")
"""No format that runs code when it is opened, and what stands beside weights."""

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PATH: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class ReleaseFile(Message, frozen=True):
    """path: a plain name, in the model's own folder; origins: where else it is, as --model takes it."""

    path: str
    blob: Blob
    origins: tuple[str, ...] = ()


class Release(Message, frozen=True):
    """created: unix seconds; supersedes: the version before, or ""; chat_template: SHA-256, hex, "" without one.

    retired: the publisher's later word that nobody is to load it any more; where it is served, that goes on.
    """

    swarm_id: SwarmId
    name: str
    version: str
    engine: EngineKind
    files: tuple[ReleaseFile, ...]
    context_tokens: int
    created: float
    chat_template: str = ""
    licence: str = ""
    supersedes: str = ""
    retired: bool = False

    @property
    def manifest(self) -> Manifest:
        """The model as workers announce it: the same for the same files, whoever published them."""
        files = tuple(ManifestFile(one.path, one.blob.size, one.blob.sha256) for one in self.files)
        return Manifest(self.name, self.version, self.engine, files, self.context_tokens, self.chat_template)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What it may be asked for: text is completed by every model, a chat needs a template."""
        return ("completions", "chat") if self.chat_template else ("completions",)

    @property
    def size(self) -> int:
        return sum(one.blob.size for one in self.files)


class Alias(Message, frozen=True):
    """What a name without a version means from now on. model: name@version; created: unix seconds."""

    swarm_id: SwarmId
    name: str
    model: str
    created: float


class Trust(Message, frozen=True):
    """The authority's word that a node may publish."""

    swarm_id: SwarmId
    publisher: PeerId
    since: float


class Revocation(Message, frozen=True):
    """The authority's word that a node may publish no more, and that nothing it published is to be loaded."""

    swarm_id: SwarmId
    publisher: PeerId
    since: float


class Signed(Message, frozen=True):
    """body: an encoded `Trust` or `Revocation`."""

    body: bytes
    signature: bytes


class SignedRelease(Message, frozen=True):
    """body: an encoded `Release` or `Alias`; trust: an encoded `Signed` of the publisher's `Trust`."""

    body: bytes
    publisher: PeerId
    signature: bytes
    trust: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, hex: what it is called among nodes that compare what they know."""
        return hashlib.sha256(encode(self)).hexdigest()


@dataclass(frozen=True, slots=True)
class Published:
    """A release that was checked."""

    release: Release
    publisher: PeerId
    signed: SignedRelease

    @property
    def reference(self) -> str:
        return f"{self.release.name}@{self.release.version}"


def trust(authority: NodeKey, publisher: PeerId, now: float) -> bytes:
    """Let a node publish. Returns the encoded `Signed`. now: unix seconds."""
    body = encode(Trust(swarm_id_of(authority), publisher, now))
    return encode(Signed(body, authority.sign("trust", body)))


def revoke(authority: NodeKey, publisher: PeerId, now: float) -> bytes:
    """Take that back. Returns the encoded `Signed`. now: unix seconds."""
    body = encode(Revocation(swarm_id_of(authority), publisher, now))
    return encode(Signed(body, authority.sign("revocation", body)))


def sign_alias(key: NodeKey, alias: Alias, trusted: bytes) -> SignedRelease:
    """trusted: what `trust` returned for this key."""
    body = encode(alias)
    return SignedRelease(body, key.node_id, key.sign("alias", body), trusted)


def sign_release(key: NodeKey, release: Release, trusted: bytes) -> SignedRelease:
    """trusted: what `trust` returned for this key."""
    body = encode(release)
    return SignedRelease(body, key.node_id, key.sign("release", body), trusted)


def check_trust(data: bytes, swarm_id: SwarmId) -> PeerId:
    """Whom the authority trusts. Raises TetherError(SIGNER_UNTRUSTED | WRONG_SWARM)."""
    return _word(data, Trust, "trust", swarm_id).publisher


def check_revocation(data: bytes, swarm_id: SwarmId) -> PeerId:
    """Whom it trusts no more. Raises TetherError(SIGNER_UNTRUSTED | WRONG_SWARM)."""
    return _word(data, Revocation, "revocation", swarm_id).publisher


def check_release(signed: SignedRelease, swarm_id: SwarmId, revoked: Collection[PeerId] = ()) -> Published:
    """Check a whole chain. Raises TetherError(SIGNER_UNTRUSTED | WRONG_SWARM | MODEL_INVALID)."""
    release = _signed_body(signed, Release, "release", swarm_id, revoked)
    check_contents(release)
    return Published(release, signed.publisher, signed)


def check_alias(signed: SignedRelease, swarm_id: SwarmId, revoked: Collection[PeerId] = ()) -> Alias:
    """Check a whole chain. Raises TetherError(SIGNER_UNTRUSTED | WRONG_SWARM | MODEL_INVALID)."""
    alias = _signed_body(signed, Alias, "alias", swarm_id, revoked)
    model, _, version = alias.model.partition("@")
    if not (_NAME.fullmatch(alias.name) and _NAME.fullmatch(model) and _VERSION.fullmatch(version)):
        raise _wrong("An alias is a name, and means a name@version.", "name")
    return alias


def check_contents(release: Release) -> None:
    """Names, paths and sizes. Raises TetherError(MODEL_INVALID) naming the field."""
    if not _NAME.fullmatch(release.name):
        raise _wrong(
            "A model's name has to be up to 96 of a-z, 0-9, . _ -, and begin with a letter or digit.", "name"
        )
    if not _VERSION.fullmatch(release.version):
        raise _wrong(
            "A version has to be up to 64 letters, digits, . _ - and begin with a letter or digit.",
            "version",
        )
    if not 1 <= len(release.files) <= MAX_FILES:
        raise _wrong(f"A model has 1 to {MAX_FILES} files.", "files")
    if len({one.path for one in release.files}) < len(release.files):
        raise _wrong("Two files have one path.", "files")
    for one in release.files:
        if not _PATH.fullmatch(one.path) or not one.path.lower().endswith(SUFFIXES):
            raise _wrong(f"{one.path[:80]!r} is no plain name that ends in {', '.join(SUFFIXES)}.", "files")
        if len(one.origins) > MAX_ORIGINS or any(len(origin) > MAX_URL_CHARS for origin in one.origins):
            raise _wrong(f"A file has over {MAX_ORIGINS} origins, or one that is too long.", "files")
        check_blob(one.blob)
    for name in ("licence", "supersedes", "chat_template"):
        if len(getattr(release, name)) > MAX_TEXT_CHARS:
            raise _wrong(f"{name} is longer than {MAX_TEXT_CHARS} characters.", name)


_Body = TypeVar("_Body", Release, Alias)
_Word = TypeVar("_Word", Trust, Revocation)


def _signed_body(
    signed: SignedRelease, kind: type[_Body], domain: str, swarm_id: SwarmId, revoked: Collection[PeerId]
) -> _Body:
    if len(signed.body) > MAX_RELEASE_BYTES:
        raise _wrong(f"The {domain} has over {MAX_RELEASE_BYTES} bytes.")
    if signed.publisher in revoked:
        raise TetherError(SIGNER_UNTRUSTED, f"The publisher {signed.publisher} was revoked.")
    if check_trust(signed.trust, swarm_id) != signed.publisher:
        raise TetherError(SIGNER_UNTRUSTED, f"The authority's trust is not in {signed.publisher}.")
    if not verify(public_key_of(signed.publisher), domain, signed.body, signed.signature):
        raise TetherError(SIGNER_UNTRUSTED, f"The {domain} is not signed by {signed.publisher}.")
    body: _Body = decode(signed.body, kind)
    if body.swarm_id != swarm_id:
        raise TetherError(WRONG_SWARM, f"The {domain} is another swarm's.")
    return body


def _word(data: bytes, kind: type[_Word], domain: str, swarm_id: SwarmId) -> _Word:
    try:
        signed = decode(data, Signed)
        word: _Word = decode(signed.body, kind)
    except TetherError as error:
        raise TetherError(SIGNER_UNTRUSTED, "There is no word of the authority for the publisher.") from error
    if word.swarm_id != swarm_id:
        raise TetherError(WRONG_SWARM, f"This belongs to swarm {word.swarm_id[:8]}, not to {swarm_id[:8]}.")
    if not verify(bytes.fromhex(swarm_id), domain, signed.body, signed.signature):
        raise TetherError(SIGNER_UNTRUSTED, "The authority did not sign that.")
    return word


def _wrong(detail: str, field: str = "model") -> TetherError:
    return TetherError(MODEL_INVALID, detail, field=field)
