"""What a tenant or one of its keys may use, and what a model costs. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import asdict, fields

from p2p.errors import CONFIG_INVALID, OUT_OF_RANGE, TetherError
from p2p.messages import Message
from tetherd.quotas.money import MICROS, micros

MAX_LIMIT: Final = 1 << 50
"""What both databases, JSON and a float hold exactly."""
MAX_WEIGHT: Final = 1_000


class Limits(Message, frozen=True):
    """None: no such limit. budget: micro-units of money a month; weight: its share when tenants wait."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_month: int | None = None
    concurrency: int | None = None
    budget: int | None = None
    weight: int = 1

    @property
    def counts(self) -> bool:
        """Whether anything has to be counted."""
        return any(value is not None for name, value in asdict(self).items() if name != "weight")

    @property
    def monthly(self) -> bool:
        """Whether a ledger that is shared by all leaders has to keep the books."""
        return self.tokens_per_month is not None or self.budget is not None

    @property
    def paced(self) -> bool:
        """Whether there is a minute to tell clients of."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None

    def shape(self) -> dict[str, Any]:
        """As tools see them: every limit, null where there is none."""
        return {one.encode_name: getattr(self, one.name) for one in fields(self)}

    def over(self, defaults: Limits) -> Limits:
        """With the defaults where nothing is said."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return Limits(**{**asdict(defaults), **said})


UNLIMITED: Final = Limits()


@dataclass(frozen=True, slots=True)
class Price:
    """Micro-units of money for a million tokens."""

    prompt: int = 0
    output: int = 0

    def cost(self, prompt_tokens: int, tokens: int) -> int:
        """Micro-units of money, a started one counted whole."""
        return -((self.prompt * prompt_tokens + self.output * tokens) // -MICROS)


FREE: Final = Price()


def check_limits(limits: Limits, *, shared: bool) -> None:
    """shared: whether all leaders use one ledger. Raises TetherError(OUT_OF_RANGE | CONFIG_INVALID)."""
    for name, value in asdict(limits).items():
        most = MAX_WEIGHT if name == "weight" else MAX_LIMIT
        if value is not None and not 1 <= value <= most:
            raise TetherError(OUT_OF_RANGE, f"{name} has to be between 1 and {most}.", field=name)
    if limits.monthly and not shared:
        raise TetherError(
            CONFIG_INVALID,
            "Monthly quotas and budgets need one ledger that all orchestrators share: start them with "
            "--store postgresql://….",
            field="budget" if limits.budget is not None else "tokensPerMonth",
        )


def read_price(text: str) -> tuple[str, Price]:
    """MODEL=PROMPT/OUTPUT, money for a million tokens. Raises TetherError(CONFIG_INVALID)."""
    model, equals, prices = text.rpartition("=")
    prompt, slash, output = prices.partition("/")
    try:
        if not (model and equals and slash):
            raise TetherError(CONFIG_INVALID, "")
        return model, Price(micros(prompt, "price"), micros(output, "price"))
    except TetherError as error:
        detail = f"quotas.prices has {text[:80]!r}; it has to be like tether-demo=0.15/0.60."
        raise TetherError(CONFIG_INVALID, detail, field="quotas.prices") from error
