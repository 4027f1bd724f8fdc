"""What a job holds of its tenant's quotas: the worst case from its admission on, then what it was billed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tetherd.quotas.limits import Price


@dataclass(frozen=True, slots=True)
class Hold:
    """Written with a job's first claim, and not changed. subjects: whose accounts keep it: a tenant, a key or both.

    tokens, micros: the worst case; prompt_price, output_price: micro-units of money for a million tokens.
    """

    subjects: tuple[str, ...] = ()
    tokens: int = 0
    micros: int = 0
    prompt_price: int = 0
    output_price: int = 0

    @property
    def price(self) -> Price:
        return Price(self.prompt_price, self.output_price)


@dataclass(frozen=True, slots=True)
class Standing:
    """What one job adds to each of its accounts now."""

    reserved_tokens: int = 0
    reserved_micros: int = 0
    settled_tokens: int = 0
    settled_micros: int = 0
    running: int = 0

    @property
    def tokens(self) -> int:
        return self.reserved_tokens + self.settled_tokens


NOTHING = Standing()


def standing(hold: Hold | None, prompt_tokens: int, tokens: int, *, held: bool, running: bool) -> Standing:
    """held: what is not billed yet is still reserved. What is billed never exceeds the worst case."""
    if hold is None or not hold.subjects:
        return NOTHING
    settled = min(prompt_tokens + tokens, hold.tokens)
    paid = min(hold.price.cost(prompt_tokens, tokens), hold.micros)
    return Standing(
        reserved_tokens=hold.tokens - settled if held else 0,
        reserved_micros=hold.micros - paid if held else 0,
        settled_tokens=settled,
        settled_micros=paid,
        running=int(held and running),
    )
