"""The register of tenants, their keys and models' policies: records, how copies are joined, what a request may. Pure.

Candidates change records on their own and meet later. The later change wins, except that what is revoked stays so; so
any order and repetition of joins ends in the same register everywhere.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from msgspec.structs import replace

from p2p.errors import FORBIDDEN, OUT_OF_RANGE, TENANT_FORBIDDEN, UNAUTHENTICATED, TetherError
from p2p.identity import PeerId
from p2p.messages import Message, PlacementRequest
from p2p.wire import encode
from tetherd.quotas.limits import Limits
from tetherd.quotas.policies import MAX_POLICIES, Policies, Policy
from tetherd.tenants.keys import TENANT, KeyProof, proof_of

LOCAL: Final = "local"
"""The tenant of those who need no key, as long as there are no others."""
MAX_TENANTS: Final = 1_000
MAX_KEYS: Final = 10_000
"""Some 2 MB: the whole register fits in one message to another candidate."""
MAX_SCOPES: Final = 16
MAX_NAME_CHARS: Final = 100


class Tenant(Message, frozen=True):
    """changed: unix seconds of the last change, by which copies are compared."""

    tenant: str
    name: str
    created: float
    changed: float
    disabled: bool = False
    limits: Limits = Limits()


class ApiKey(Message, frozen=True):
    """hash: of the key, 32 bytes; scopes: `infer` or `model:NAME`, none: everything; dates: unix seconds."""

    key_id: str
    tenant: str
    hash: bytes
    created: float
    changed: float
    scopes: tuple[str, ...] = ()
    expires: float | None = None
    revoked: float | None = None
    last_used: float | None = None
    limits: Limits = Limits()


class Records(Message, frozen=True):
    """A whole register, as it is kept and sent."""

    tenants: tuple[Tenant, ...] = ()
    keys: tuple[ApiKey, ...] = ()
    policies: tuple[Policy, ...] = ()


_Record = TypeVar("_Record", Tenant, ApiKey, Policy)


@dataclass(frozen=True, slots=True)
class Register:
    """Frozen: a change makes another one."""

    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    keys: Mapping[str, ApiKey] = field(default_factory=dict)
    policies: Policies = field(default_factory=dict)

    @classmethod
    def of(cls, records: Records) -> Register:
        return cls().joined(records.tenants, records.keys, records.policies)

    def joined(
        self, tenants: Iterable[Tenant] = (), keys: Iterable[ApiKey] = (), policies: Iterable[Policy] = ()
    ) -> Register:
        """With these records in it. Raises TetherError(OUT_OF_RANGE | FORBIDDEN) for what no register may hold."""
        after_tenants, after_keys, after_policies = dict(self.tenants), dict(self.keys), dict(self.policies)
        for tenant in tenants:
            if TENANT.fullmatch(tenant.tenant) is None or tenant.tenant == LOCAL:
                raise TetherError(FORBIDDEN, f"{tenant.tenant[:40]!r} cannot be a tenant.", field="tenant")
            after_tenants[tenant.tenant] = _later(after_tenants.get(tenant.tenant), tenant)
        for key in keys:
            there = after_keys.get(key.key_id)
            if there is not None and (there.tenant, there.hash) != (key.tenant, key.hash):
                raise TetherError(FORBIDDEN, "A key's id belongs to one key.", field="key")
            after_keys[key.key_id] = _joined_key(there, key)
        for policy in policies:
            name = policy.model, policy.tenant
            after_policies[name] = _later(after_policies.get(name), policy)
        if len(after_policies) > MAX_POLICIES:
            raise TetherError(OUT_OF_RANGE, f"At most {MAX_POLICIES} policies are kept.")
        if len(after_tenants) > MAX_TENANTS or len(after_keys) > MAX_KEYS:
            detail = f"At most {MAX_TENANTS} tenants and {MAX_KEYS} keys are kept."
            raise TetherError(OUT_OF_RANGE, detail)
        return Register(after_tenants, after_keys, after_policies)

    def records(self) -> Records:
        """In order, so that equal registers are equal bytes."""
        return Records(
            tuple(self.tenants[name] for name in sorted(self.tenants)),
            tuple(self.keys[key_id] for key_id in sorted(self.keys)),
            tuple(self.policies[name] for name in sorted(self.policies)),
        )

    def digest(self) -> bytes:
        """32 bytes, by which two candidates see that they agree: on last uses only to the hour."""
        records = self.records()
        keys = tuple(replace(key, last_used=key.last_used and key.last_used // 3600) for key in records.keys)
        return hashlib.sha256(encode(replace(records, keys=keys))).digest()

    def check(self, request: PlacementRequest, gateway: PeerId, now: float) -> ApiKey | None:
        """Whose request this is, by its proof; None: `local`, while nobody has to be told apart.

        Raises TetherError(UNAUTHENTICATED | TENANT_FORBIDDEN).
        """
        if not request.key_id:
            if self.tenants or request.tenant_id != LOCAL:
                raise _unknown("This swarm has tenants, and the request shows no API key.")
            return None
        key = self.keys.get(request.key_id)
        if key is None or not hmac.compare_digest(proof_of(key.hash, request, gateway), request.proof):
            raise _unknown("The API key is not known here.")
        if key.tenant != request.tenant_id:
            raise _unknown("The API key is another tenant's.")
        self._check_good(key, now)
        if key.scopes and not {"infer", f"model:{request.model_id}"} & set(key.scopes):
            raise TetherError(TENANT_FORBIDDEN, "This API key is not for this model.", field="model")
        return key

    def check_shown(self, shown: KeyProof, now: float) -> ApiKey:
        """A key that was shown whole. Raises TetherError(UNAUTHENTICATED | TENANT_FORBIDDEN)."""
        key = self.keys.get(shown.key_id)
        if key is None or not hmac.compare_digest(key.hash, shown.key_hash):
            raise _unknown("The API key is not known here.")
        self._check_good(key, now)
        return key

    def _check_good(self, key: ApiKey, now: float) -> None:
        if key.revoked is not None:
            raise _unknown("The API key was revoked.")
        if key.expires is not None and key.expires <= now:
            raise _unknown("The API key has expired.")
        self.check_tenant(key.tenant)

    def check_tenant(self, name: str) -> None:
        """Raises TetherError(TENANT_FORBIDDEN)."""
        tenant = self.tenants.get(name)
        if tenant is None or tenant.disabled:
            why = "is disabled" if tenant else "is not known here"
            raise TetherError(TENANT_FORBIDDEN, f"Tenant {name[:40]} {why}.")


def after(record: _Record, now: float) -> float:
    """When a change to this record happens: later than the last one, whatever the clock says."""
    return max(now, record.changed + 1e-3)


def _later(there: _Record | None, other: _Record) -> _Record:
    if there is None:
        return other
    return max(there, other, key=_age)


def _age(record: Tenant | ApiKey | Policy) -> tuple[float, bytes]:
    """What a join changes by itself is left out: it must not decide the next one."""
    decisive = replace(record, revoked=None, last_used=None) if isinstance(record, ApiKey) else record
    return record.changed, encode(decisive)


def _joined_key(there: ApiKey | None, other: ApiKey) -> ApiKey:
    if there is None:
        return other
    revoked = [date for date in (there.revoked, other.revoked) if date is not None]
    used = [date for date in (there.last_used, other.last_used) if date is not None]
    return replace(
        _later(there, other), revoked=min(revoked, default=None), last_used=max(used, default=None)
    )


def _unknown(detail: str) -> TetherError:
    return TetherError(UNAUTHENTICATED, detail, field="Authorization")
