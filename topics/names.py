"""Topics by name and by key.

    tether/presence/<region>                    who is there
    tether/models/<model>/<version>/<region>    who serves it (provider records only)
    tether/control/<region>                     the candidates' heartbeats
    tether/catalogue                            new releases, aliases, revocations, to everybody

A name is what people read; its key is what the DHT and the gossip meshes use. The key is hashed under the
swarm's id: two swarms on one network never meet, and a stranger who sees a key learns neither model nor region.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final, Literal

from p2p.errors import FIELD_INVALID, TetherError
from p2p.membership import SwarmId

Kind = Literal["presence", "models", "control", "catalogue"]

_ROOT: Final = "tether"
_REGION: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]*(?:/[A-Za-z0-9][A-Za-z0-9._:-]*)*")
"""Slashes are allowed (org/name): version and region have none, so a name still reads back in one way."""
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
MAX_MODEL_CHARS: Final = 128


@dataclass(frozen=True, slots=True)
class Topic:
    """One meeting place. Made by presence(), models() and control(), which check the parts; CATALOGUE has none."""

    kind: Kind
    region: str = ""
    model: str = ""
    version: str = ""

    @property
    def name(self) -> str:
        parts = (self.model, self.version) if self.kind == "models" else ()
        return "/".join(part for part in (_ROOT, self.kind, *parts, self.region) if part)

    def key(self, swarm_id: SwarmId) -> bytes:
        """Where to meet on the DHT: 32 bytes."""
        secret, person = bytes.fromhex(swarm_id), b"tether-topic"
        return hashlib.blake2b(self.name.encode(), digest_size=32, key=secret, person=person).digest()

    def gossip_id(self, swarm_id: SwarmId) -> str:
        """The gossip mesh's name on the wire."""
        return self.key(swarm_id).hex()


CATALOGUE: Final = Topic("catalogue")


def presence(region: str) -> Topic:
    return Topic("presence", check_region(region))


def control(region: str) -> Topic:
    return Topic("control", check_region(region))


def models(model: str, version: str, region: str) -> Topic:
    return Topic("models", check_region(region), check_model(model), check_version(version))


def parse(name: str) -> Topic:
    """Read a topic's name back. Raises TetherError(FIELD_INVALID)."""
    root, _, rest = name.partition("/")
    kind, _, rest = rest.partition("/")
    match root, kind:
        case "tether", "catalogue" if not rest:
            return CATALOGUE
        case "tether", "presence":
            return presence(rest)
        case "tether", "control":
            return control(rest)
        case "tether", "models" if rest.count("/") >= 2:
            model, version, region = rest.rsplit("/", 2)
            return models(model, version, region)
    raise TetherError(FIELD_INVALID, "That is not the name of a topic.", field="topic")


def check_region(region: str) -> str:
    """Return region, or raise TetherError(FIELD_INVALID)."""
    if _REGION.fullmatch(region):
        return region
    raise TetherError(FIELD_INVALID, "A region is 1 to 32 of a-z, 0-9 and -, such as eu-1.", field="region")


def check_model(model: str) -> str:
    """Return model, or raise TetherError(FIELD_INVALID)."""
    if len(model) <= MAX_MODEL_CHARS and _MODEL.fullmatch(model):
        return model
    raise TetherError(
        FIELD_INVALID, "A model's name is 1 to 128 of letters, digits, . _ : - /.", field="model"
    )


def check_version(version: str) -> str:
    """Return version, or raise TetherError(FIELD_INVALID)."""
    if _VERSION.fullmatch(version):
        return version
    raise TetherError(FIELD_INVALID, "A version is 1 to 64 of letters, digits, . _ + -.", field="version")
