"""What a placement holds of its tenant's quotas, and within what limits. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from p2p.errors import CONFIG_INVALID, TetherError
from p2p.messages import PlacementRequest
from tetherd.quotas.hold import Hold
from tetherd.quotas.limits import FREE, UNLIMITED, Limits, Price, check_limits, read_price
from tetherd.quotas.money import micros
from tetherd.quotas.policies import Rule
from tetherd.store.protocol import Terms
from tetherd.tenants.register import Register


class Defaults(Protocol):
    """`tetherd.config.QuotasConfig`."""

    @property
    def requests_per_minute(self) -> int | None: ...
    @property
    def tokens_per_minute(self) -> int | None: ...
    @property
    def tokens_per_month(self) -> int | None: ...
    @property
    def concurrency(self) -> int | None: ...
    @property
    def budget(self) -> str: ...
    @property
    def prices(self) -> tuple[str, ...]: ...


def read_quotas(config: Defaults, *, shared: bool) -> Quotas:
    """shared: whether all leaders use one ledger. Raises TetherError(CONFIG_INVALID | OUT_OF_RANGE | FIELD_INVALID)."""
    defaults = Limits(
        config.requests_per_minute,
        config.tokens_per_minute,
        config.tokens_per_month,
        config.concurrency,
        micros(config.budget, "quotas.budget") if config.budget else None,
    )
    check_limits(defaults, shared=shared)
    if config.prices and not shared:
        detail = (
            "Prices need one ledger that all orchestrators share: start them with --store postgresql://…."
        )
        raise TetherError(CONFIG_INVALID, detail, field="quotas.prices")
    return Quotas(defaults, dict(map(read_price, config.prices)))


@dataclass(frozen=True, slots=True)
class Quotas:
    """defaults: of every tenant, where its own limits say nothing; prices: by model, NAME or NAME@VERSION."""

    defaults: Limits = UNLIMITED
    prices: Mapping[str, Price] = field(default_factory=dict)

    def terms(self, request: PlacementRequest, register: Register) -> tuple[Terms, ...]:
        """Of the tenant and of its key, as far as they are limited."""
        tenant, key = register.tenants.get(request.tenant_id), register.keys.get(request.key_id)
        found = [Terms(f"tenant:{request.tenant_id}", self.limits(tenant.limits if tenant else Limits()))]
        if key is not None:
            found.append(Terms(f"key:{key.key_id}", key.limits))
        return tuple(one for one in found if one.limits.counts)

    def limits(self, limits: Limits) -> Limits:
        return limits.over(self.defaults)

    def weight(self, tenant: str, register: Register) -> int:
        known = register.tenants.get(tenant)
        return known.limits.weight if known else self.defaults.weight

    def hold(
        self, request: PlacementRequest, terms: tuple[Terms, ...], rule: Rule | None = None
    ) -> Hold | None:
        """The worst case: the whole prompt and the longest answer, at the model's price."""
        named = f"{request.model_id}@{request.version}"
        price = self.prices.get(named) or self.prices.get(request.model_id, FREE)
        price = rule.price(price) if rule else price
        if not terms and price == FREE:
            return None
        return Hold(
            subjects=tuple(one.subject for one in terms),
            tokens=request.max_prompt_tokens + request.max_tokens,
            micros=price.cost(request.max_prompt_tokens, request.max_tokens),
            prompt_price=price.prompt,
            output_price=price.output,
        )
