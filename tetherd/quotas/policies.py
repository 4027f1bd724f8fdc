"""Who may use a model, where, how long its answers may be and what they cost. Pure.

A policy is of a model, for every tenant or for one. What is said for one tenant can only narrow what is said for all,
but for prices, where the narrower word counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import asdict, fields

from p2p.errors import (
    CONFIG_INVALID,
    FIELD_INVALID,
    MODEL_NOT_FOUND,
    OUT_OF_RANGE,
    TENANT_FORBIDDEN,
    TetherError,
)
from p2p.identity import PeerId
from p2p.messages import Message
from tetherd.quotas.limits import MAX_LIMIT, Price

MAX_POLICIES: Final = 1_000
MAX_NAMES: Final = 256
"""In one list of a policy."""
MAX_NAME_CHARS: Final = 256
LISTS: Final = ("allow_tenants", "deny_tenants", "regions", "workers")


class Policy(Message, frozen=True):
    """tenant "": for all. Empty lists and None: nothing is said. Prices: micro-units of money for a million tokens.

    changed: unix seconds; audit_consent: since when the tenant agrees that prompts may be kept for audits. Nothing in
    Tether keeps any (they exist on the client's node and the chosen worker alone), so it is on record for those two.
    """

    model: str
    tenant: str = ""
    changed: float = 0.0
    allow_tenants: tuple[str, ...] = ()
    deny_tenants: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    max_tokens: int | None = None
    prompt_price: int | None = None
    output_price: int | None = None
    audit_consent: float | None = None

    @property
    def priced(self) -> bool:
        return self.prompt_price is not None or self.output_price is not None

    @property
    def says_nothing(self) -> bool:
        """Taken back; it is kept, so that nobody's older copy comes to life again."""
        return self == Policy(self.model, self.tenant, self.changed)

    def shape(self) -> dict[str, Any]:
        """As tools see it."""
        return {one.encode_name: getattr(self, one.name) for one in fields(self)}


Policies = Mapping[tuple[str, str], Policy]
"""By model and tenant."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds for one request."""

    for_all: Policy
    for_one: Policy

    @property
    def workers(self) -> frozenset[PeerId] | None:
        """None: any."""
        return _both(self.for_all.workers, self.for_one.workers)

    def allows(self, tenant: str) -> bool:
        """Whether the tenant is shown the model at all."""
        allowed, denied = self.for_all.allow_tenants, self.for_all.deny_tenants
        return tenant not in denied and (not allowed or tenant in allowed)

    def shows(self, tenant: str, region: str) -> bool:
        """Whether a catalogue of this region lists it for the tenant."""
        regions = _both(self.for_all.regions, self.for_one.regions)
        return self.allows(tenant) and (regions is None or region in regions)

    def check(self, tenant: str, region: str, max_tokens: int) -> None:
        """Raises TetherError(MODEL_NOT_FOUND | TENANT_FORBIDDEN | OUT_OF_RANGE) for what may not be."""
        model = self.for_all.model
        if not self.allows(tenant):
            raise TetherError(
                MODEL_NOT_FOUND, f"There is no model {model[:100]!r} for this tenant.", field="model"
            )
        regions = _both(self.for_all.regions, self.for_one.regions)
        if regions is not None and region not in regions:
            detail = f"{model[:100]!r} may not be used in region {region} by its policy."
            raise TetherError(TENANT_FORBIDDEN, detail, field="model")
        bounds = [one for one in (self.for_all.max_tokens, self.for_one.max_tokens) if one is not None]
        if bounds and max_tokens > min(bounds):
            detail = (
                f"{model[:100]!r} gives at most {min(bounds)} tokens a request by its policy: set max_tokens."
            )
            raise TetherError(OUT_OF_RANGE, detail, field="max_tokens")

    def price(self, otherwise: Price) -> Price:
        """otherwise: where no policy says one."""
        return Price(
            _first(self.for_one.prompt_price, self.for_all.prompt_price, otherwise.prompt),
            _first(self.for_one.output_price, self.for_all.output_price, otherwise.output),
        )


def rule_of(policies: Policies, model: str, tenant: str) -> Rule:
    return Rule(
        policies.get((model, "")) or Policy(model), policies.get((model, tenant)) or Policy(model, tenant)
    )


def check_policy(policy: Policy, *, shared: bool) -> None:
    """shared: whether all leaders use one ledger. Raises TetherError(FIELD_INVALID | OUT_OF_RANGE | CONFIG_INVALID)."""
    if not 0 < len(policy.model) <= MAX_NAME_CHARS or not policy.model.isprintable():
        raise TetherError(FIELD_INVALID, "A policy is of a model, by its name.", field="model")
    for name in LISTS:
        names: tuple[str, ...] = getattr(policy, name)
        if len(names) > MAX_NAMES or not all(0 < len(one) <= MAX_NAME_CHARS for one in names):
            raise TetherError(FIELD_INVALID, f"{name} has at most {MAX_NAMES} names.", field=name)
    for name in ("max_tokens", "prompt_price", "output_price"):
        value: int | None = getattr(policy, name)
        if value is not None and not (name == "max_tokens") <= value <= MAX_LIMIT:
            raise TetherError(OUT_OF_RANGE, f"{name} is out of bounds.", field=name)
    if policy.tenant and (policy.allow_tenants or policy.deny_tenants):
        detail = "Which tenants may use a model is said for all of them, without --tenant."
        raise TetherError(FIELD_INVALID, detail, field="allow_tenants")
    if policy.audit_consent is not None and not policy.tenant:
        detail = "Each tenant consents for itself: name it with --tenant."
        raise TetherError(FIELD_INVALID, detail, field="audit_consent")
    if policy.priced and not shared:
        detail = (
            "Prices need one ledger that all orchestrators share: start them with --store postgresql://…."
        )
        raise TetherError(CONFIG_INVALID, detail, field="prompt_price")


def changed_policy(policy: Policy, changes: Mapping[str, Any]) -> Policy:
    """With these fields, by name; a number below 0 takes its word back."""
    said = {
        name: None if isinstance(value, int | float) and value < 0 else value
        for name, value in changes.items()
    }
    return Policy(**{**asdict(policy), **said})


def _both(one: tuple[str, ...], other: tuple[str, ...]) -> frozenset[Any] | None:
    if one and other:
        return frozenset(one) & frozenset(other)
    return frozenset(one or other) or None


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)
