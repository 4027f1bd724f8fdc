"""What a region serves, as its workers report it, and which of it a request means. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from p2p.errors import FIELD_INVALID, MODEL_NOT_FOUND, NO_WORKER, TetherError
from p2p.messages import ServedModel
from tetherd.gateway.answer import ModelSummary, Submission
from tetherd.gateway.ports import KnownWorker


def summarize(workers: Iterable[KnownWorker]) -> list[ModelSummary]:
    """One line a manifest, by name; the one that most workers serve first."""
    found: dict[str, ModelSummary] = {}
    for worker in workers:
        health = worker.presence.health
        for model in health.model_cache if health else ():
            found[model.digest] = _counted(found.get(model.digest), model)
    return sorted(found.values(), key=lambda model: (model.name, -model.workers, model.version, model.digest))


def choose(
    models: Sequence[ModelSummary], wanted: str, region: str, meaning: Callable[[str], str] = str
) -> ModelSummary:
    """The model that a request names: name, name@version, or an alias, which goes first where its model is served.

    Raises TetherError(MODEL_NOT_FOUND | NO_WORKER).
    """
    for name in (meaning(wanted), wanted):
        for model in models:
            if name in (model.name, f"{model.name}@{model.version}"):
                return model
    if not models:
        raise TetherError(
            NO_WORKER, f"No worker of region {region} is known yet.", field="model", retry_after_s=1.0
        )
    there = ", ".join(sorted({model.name for model in models}))
    raise TetherError(
        MODEL_NOT_FOUND,
        f"There is no model {wanted[:100]!r} in region {region}; there are: {there}.",
        field="model",
    )


def _counted(known: ModelSummary | None, model: ServedModel) -> ModelSummary:
    if known is None:
        return ModelSummary(
            model.name,
            model.version,
            model.digest,
            model.context_tokens,
            workers=1,
            loaded=int(model.loaded),
            embeds=model.embeds,
        )
    context_tokens = min(known.context_tokens, model.context_tokens)
    loaded = known.loaded + model.loaded
    return replace(known, context_tokens=context_tokens, workers=known.workers + 1, loaded=loaded)


def check_embeds(model: ModelSummary, submission: Submission) -> None:
    """Whether a model makes what is asked for. Raises TetherError(FIELD_INVALID)."""
    if bool(model.embeds) != bool(submission.embed):
        makes, path = ("vectors", "embeddings") if model.embeds else ("text", "chat/completions")
        detail = f"{model.name} makes {makes}: ask /v1/{path}, or another model."
        raise TetherError(FIELD_INVALID, detail, field="model")
    if submission.dimensions not in (None, model.embeds):
        detail = f"{model.name} has {model.embeds} dimensions, and does not say that they may be fewer."
        raise TetherError(FIELD_INVALID, detail, field="dimensions")
