"""Where tenants and keys are made, changed and looked up: one candidate's view of the register.

It is kept in the ledger, and a copy in a file beside it: a ledger that is new or lost begins with who was known, rather
than let everybody in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final, Protocol

import structlog
import trio
from msgspec.structs import asdict, replace

from p2p.errors import FIELD_INVALID, NOT_FOUND, UNAUTHENTICATED, TetherError
from p2p.identity import PeerId
from p2p.messages import PlacementRequest
from tetherd.identity.roles import ROLES, is_operator_scope
from tetherd.identity.tokens import OIDC, Tokens
from tetherd.quotas.limits import Limits, check_limits
from tetherd.quotas.policies import Policy, changed_policy, check_policy
from tetherd.store.register import USED_EVERY_S, RegisterTable
from tetherd.tenants.keys import KEY_ID_BYTES, SECRET_BYTES, TENANT, hash_of, make_key, prefix_of
from tetherd.tenants.register import (
    LOCAL,
    MAX_NAME_CHARS,
    MAX_SCOPES,
    ApiKey,
    Records,
    Register,
    Tenant,
    after,
)

MAX_SCOPE_CHARS: Final = 256
DEFAULT_OVERLAP_S: Final = 86_400.0
"""How long a rotated key is still good: a day to bring the new one everywhere."""

_log: Final = structlog.get_logger()


class Keeper(Protocol):
    """The disk. Both raise TetherError(DATA_DIR_INVALID)."""

    def register(self) -> Records: ...

    async def save_register(self, records: Records) -> None:
        """Whole or not at all, whenever the machine stops."""
        ...


class MemoryKeeper:
    """Forgets at the end."""

    def register(self) -> Records:
        return Records()

    async def save_register(self, records: Records) -> None:
        await trio.lowlevel.checkpoint()


class TenantDesk:
    """now: unix seconds; draw: that many random bytes. A change is on the disk before it is true.

    require_keys: nobody is let in without a key, also while there are no tenants. shared: whether one ledger serves all
    orchestrators, so that monthly limits can be kept. tokens: of the OIDC issuer, if one is trusted.
    """

    shared = False

    def __init__(
        self,
        keeper: Keeper,
        *,
        now: Callable[[], float],
        require_keys: bool = False,
        draw: Callable[[int], bytes] = os.urandom,
        tokens: Tokens | None = None,
    ) -> None:
        self._keeper = keeper
        self._now = now
        self._require_keys = require_keys
        self._draw = draw
        self._tokens = tokens
        self._turn = trio.Lock()
        self.register = Register.of(keeper.register())
        self._table: RegisterTable | None = None
        self._read = 0
        self._used: dict[str, float] = {}
        self._unwritten: dict[str, float] = {}

    async def move_into(self, table: RegisterTable) -> None:
        """Keep the register in a ledger from now on; what only this node knows is carried over.

        Raises TetherError(LEDGER_UNAVAILABLE | OUT_OF_RANGE | FORBIDDEN).
        """
        self._table = table
        known = self.register.records()
        await self.refresh()
        if self.register.records() != (await table.changes()).records:
            await table.join(known)
            await self.refresh()

    async def refresh(self) -> None:
        """Tell the ledger which keys were used, and read what others changed.

        Raises TetherError(LEDGER_UNAVAILABLE).
        """
        used, self._unwritten = self._unwritten, {}
        if self._table is None:
            keys = [replace(self.register.keys[one], last_used=at) for one, at in used.items()]
            return await self.take(Records(keys=tuple(keys)))
        try:
            await self._table.used(used)
        except TetherError:
            self._unwritten = used | self._unwritten
            raise
        changes = await self._table.changes(self._read)
        async with self._turn:
            await self._keep(self.register.joined(*_parts(changes.records)))
            self._read = max(self._read, changes.revision)

    # ── For the orchestrator ─────────────────────────────────────────────────────────────────────────────────────

    async def admit(self, request: PlacementRequest, gateway: PeerId) -> None:
        """Raises TetherError(UNAUTHENTICATED | TENANT_FORBIDDEN)."""
        if self._require_keys and not request.key_id:
            raise TetherError(UNAUTHENTICATED, "This node lets nobody in without an API key.")
        if request.key_id == OIDC:
            return await self._admit_bearer(request)
        now = self._now()
        key = self.register.check(request, gateway, now)
        if key is not None and now - (self._last_used(key) or 0.0) >= USED_EVERY_S:
            self._used[key.key_id] = self._unwritten[key.key_id] = now

    def _last_used(self, key: ApiKey) -> float | None:
        return max((at for at in (key.last_used, self._used.get(key.key_id)) if at is not None), default=None)

    async def _admit_bearer(self, request: PlacementRequest) -> None:
        """By the token itself: a gateway's word for it would let any gateway speak for any tenant."""
        if self._tokens is None:
            raise TetherError(
                UNAUTHENTICATED, "This orchestrator trusts no OIDC issuer.", field="Authorization"
            )
        claims = await self._tokens.check(request.proof.decode("ascii", "replace"))
        if claims.tenant != request.tenant_id:
            raise TetherError(UNAUTHENTICATED, "The token is another tenant's.", field="Authorization")
        self.register.check_tenant(claims.tenant)
        claims.check_model(request.model_id)

    async def take(self, records: Records) -> None:
        """Join what another candidate has, or what changed here."""
        async with self._turn:
            joined = self.register.joined(*_parts(records))
            if joined != self.register:
                with trio.CancelScope(shield=True):
                    if self._table is not None:
                        await self._table.join(records)
                    await self._keep(joined)

    async def _keep(self, joined: Register) -> None:
        """The file follows where that matters: not with each use of a key."""
        if joined.digest() != self.register.digest():
            await self._keeper.save_register(joined.records())
        self.register = joined

    # ── For operators ────────────────────────────────────────────────────────────────────────────────────────────

    def tenants(self) -> list[dict[str, Any]]:
        return [self._tenant_shape(tenant) for tenant in self.register.records().tenants]

    def tenant(self, name: str) -> dict[str, Any]:
        """Raises TetherError(NOT_FOUND)."""
        return {**self._tenant_shape(self._tenant(name)), "keys": self.keys(name)}

    async def create_tenant(self, name: str, label: str) -> dict[str, Any]:
        """Raises TetherError(FIELD_INVALID)."""
        if TENANT.fullmatch(name) is None or name == LOCAL:
            detail = (
                f"{name[:40]!r} has to be lower-case letters, digits and dashes, at most 32, and not local."
            )
            raise TetherError(FIELD_INVALID, detail, field="tenant")
        if name in self.register.tenants:
            raise TetherError(FIELD_INVALID, f"There is a tenant {name} already.", field="tenant")
        if len(label) > MAX_NAME_CHARS or not label.isprintable():
            detail = f"A name has at most {MAX_NAME_CHARS} printable characters."
            raise TetherError(FIELD_INVALID, detail, field="name")
        now = self._now()
        await self.take(Records((Tenant(name, label, now, now),)))
        _log.info("tenant.created", tenant=name)
        return self.tenant(name)

    async def set_disabled(self, name: str, disabled: bool) -> dict[str, Any]:
        """Raises TetherError(NOT_FOUND)."""
        there = self._tenant(name)
        await self.take(Records((replace(there, disabled=disabled, changed=after(there, self._now())),)))
        _log.info("tenant.changed", tenant=name, disabled=disabled)
        return self.tenant(name)

    async def limit_tenant(self, name: str, changes: Mapping[str, int]) -> dict[str, Any]:
        """Set these limits, and take off those that are 0.

        Raises TetherError(NOT_FOUND | OUT_OF_RANGE | CONFIG_INVALID).
        """
        there = self._tenant(name)
        limits = self._changed(there.limits, changes)
        await self.take(Records((replace(there, limits=limits, changed=after(there, self._now())),)))
        _log.info("tenant.limited", tenant=name, **asdict(limits))
        return self.tenant(name)

    async def limit_key(self, key_id: str, changes: Mapping[str, int]) -> dict[str, Any]:
        """As limit_tenant, for one of its keys; a request has to keep within both."""
        key = self._key(key_id)
        limits = self._changed(key.limits, changes)
        await self.take(Records(keys=(replace(key, limits=limits, changed=after(key, self._now())),)))
        _log.info("key.limited", tenant=key.tenant, key=key.key_id, **asdict(limits))
        return self._key_shape(self._key(key_id))

    def _changed(self, limits: Limits, changes: Mapping[str, int]) -> Limits:
        defaults = asdict(Limits())
        after_ = replace(limits, **{name: value or defaults[name] for name, value in changes.items()})
        check_limits(after_, shared=self.shared)
        return after_

    def policies(self) -> list[dict[str, Any]]:
        known = self.register.records().policies
        return [policy.shape() for policy in known if not policy.says_nothing]

    async def set_policy(self, model: str, tenant: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change what holds of a model, for all ("") or one tenant; no changes: take it all back.

        Raises TetherError(NOT_FOUND | FIELD_INVALID | OUT_OF_RANGE | CONFIG_INVALID).
        """
        for name in (tenant, *changes.get("allow_tenants", ()), *changes.get("deny_tenants", ())):
            if name not in ("", LOCAL):
                self._tenant(name)
        there = self.register.policies.get((model, tenant)) or Policy(model, tenant)
        changed = changed_policy(there, changes) if changes else Policy(model, tenant)
        policy = replace(changed, changed=after(there, self._now()))
        check_policy(policy, shared=self.shared)
        await self.take(Records(policies=(policy,)))
        _log.info("policy.changed", model=model, tenant=tenant)
        return policy.shape()

    def keys(self, tenant: str = "") -> list[dict[str, Any]]:
        """All keys, or one tenant's. Raises TetherError(NOT_FOUND)."""
        if tenant:
            self._tenant(tenant)
        found = [key for key in self.register.records().keys if tenant in ("", key.tenant)]
        return [self._key_shape(key) for key in sorted(found, key=lambda key: (key.tenant, key.created))]

    async def create_key(
        self, tenant: str, *, scopes: tuple[str, ...] = (), ttl_s: float | None = None
    ) -> dict[str, Any]:
        """The only answer that holds the key itself. Raises TetherError(NOT_FOUND | FIELD_INVALID)."""
        self._tenant(tenant)
        if len(scopes) > MAX_SCOPES or not all(map(_is_scope, scopes)):
            detail = f"Scopes are infer, model:NAME, {', '.join(ROLES)} or such as usage:read, at most {MAX_SCOPES}."
            raise TetherError(FIELD_INVALID, detail, field="scopes")
        if ttl_s is not None and not (isfinite(ttl_s) and ttl_s > 0):
            raise TetherError(FIELD_INVALID, "ttl has to be greater than 0.", field="ttlS")
        return await self._issue(tenant, scopes, None if ttl_s is None else self._now() + ttl_s)

    def scopes_of(self, key_id: str) -> tuple[str, ...]:
        """Raises TetherError(NOT_FOUND)."""
        return self._key(key_id).scopes

    async def rotate_key(self, key_id: str, *, overlap_s: float = DEFAULT_OVERLAP_S) -> dict[str, Any]:
        """A new key with the same scopes; the old one is good for overlap_s more. Raises as create_key does."""
        old, now = self._key(key_id), self._now()
        if old.revoked is not None:
            raise TetherError(FIELD_INVALID, "A revoked key cannot be rotated: create one.", field="key")
        if not (isfinite(overlap_s) and overlap_s >= 0):
            raise TetherError(FIELD_INVALID, "overlap has to be 0 or more.", field="overlapS")
        until = now + overlap_s if old.expires is None else min(old.expires, now + overlap_s)
        replaced = replace(old, expires=until, changed=after(old, now))
        return await self._issue(old.tenant, old.scopes, None, replaced)

    async def revoke_key(self, key_id: str) -> dict[str, Any]:
        """Raises TetherError(NOT_FOUND)."""
        key, now = self._key(key_id), self._now()
        await self.take(Records(keys=(replace(key, revoked=now, changed=after(key, now)),)))
        _log.info("key.revoked", tenant=key.tenant, key=key_id)
        return self._key_shape(self._key(key_id))

    async def _issue(
        self, tenant: str, scopes: tuple[str, ...], expires: float | None, *others: ApiKey
    ) -> dict[str, Any]:
        text, key_id = make_key(tenant, self._draw(KEY_ID_BYTES + SECRET_BYTES))
        now = self._now()
        key = ApiKey(key_id, tenant, hash_of(text), now, now, scopes, expires)
        await self.take(Records(keys=(key, *others)))
        _log.info("key.created", tenant=tenant, key=key_id)
        return {**self._key_shape(key), "key": text}

    def _tenant(self, name: str) -> Tenant:
        if (found := self.register.tenants.get(name)) is None:
            raise TetherError(NOT_FOUND, f"There is no tenant {name[:40]!r}.", field="tenant")
        return found

    def _key(self, key_id: str) -> ApiKey:
        """By its id, or by the prefix that lists show."""
        if (found := self.register.keys.get(key_id.rpartition("_")[2])) is None:
            raise TetherError(NOT_FOUND, "There is no such key.", field="key")
        return found

    def _tenant_shape(self, tenant: Tenant) -> dict[str, Any]:
        return {
            "tenant": tenant.tenant,
            "name": tenant.name,
            "state": "disabled" if tenant.disabled else "active",
            "limits": tenant.limits.shape(),
            "created": tenant.created,
        }

    def _key_shape(self, key: ApiKey) -> dict[str, Any]:
        expired = key.expires is not None and key.expires <= self._now()
        return {
            "keyId": key.key_id,
            "prefix": prefix_of(key.tenant, key.key_id),
            "tenant": key.tenant,
            "scopes": list(key.scopes),
            "state": "revoked" if key.revoked is not None else "expired" if expired else "active",
            "limits": key.limits.shape(),
            "created": key.created,
            "expires": key.expires,
            "lastUsed": self._last_used(key),
        }


def _parts(records: Records) -> tuple[tuple[Tenant, ...], tuple[ApiKey, ...], tuple[Policy, ...]]:
    return records.tenants, records.keys, records.policies


def _is_scope(scope: str) -> bool:
    return (
        scope == "infer"
        or is_operator_scope(scope)
        or (scope.startswith("model:") and 6 < len(scope) <= MAX_SCOPE_CHARS)
    )
