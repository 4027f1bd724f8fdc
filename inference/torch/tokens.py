"""A Hugging Face tokenizer as metadata of a GGUF, which llama.cpp then reads as a vocabulary without a model.

So there is one way to cut texts, draw by a schema, and know an answer's end, whichever engine computes. Known are the
two kinds that Llama's family has: byte-level BPE, whose way of cutting words has a name in llama.cpp, and
SentencePiece's BPE with bytes to fall back on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from inference.forward import LoadError
from inference.gguf_file import Value

MAX_JSON_BYTES: Final = 64 << 20
"""Of a tokenizer.json; those of 250,000 tokens have 20 MB."""
MAX_TOKENS: Final = 1 << 20
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_CUTS: Final = (
    (r"\p{N}{1,3}", "llama-bpe"),
    (r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|", "qwen2"),
)
"""What is in the expression that cuts words, and what llama.cpp calls it; the first that fits."""


def read_json(path: Path) -> dict[str, Any]:
    """An object; {} where there is no such file. Raises LoadError."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise LoadError(f"{path.name} is larger than {MAX_JSON_BYTES >> 20} MB")
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LoadError(f"{path.name} is no JSON object") from error
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read: {error.strerror}") from error


def vocabulary_of(folder: Path, size: int) -> dict[str, Value]:
    """size: of the model's vocabulary, which may be padded. Raises LoadError for what llama.cpp could not do alike."""
    tokenizer = read_json(folder / "tokenizer.json")
    if not tokenizer:
        raise LoadError("it has no tokenizer.json")
    try:
        return _vocabulary(tokenizer, read_json(folder / "tokenizer_config.json"), folder, size)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise LoadError(f"its tokenizer.json is not understood ({type(error).__name__})") from error


def chat_template(folder: Path, settings: dict[str, Any]) -> str:
    """Of tokenizer_config.json, or the file that newer models have for it."""
    template = settings.get("chat_template", "")
    if isinstance(template, list):
        named = {str(one.get("name")): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default", "")
    file = folder / "chat_template.jinja"
    if not template and file.is_file() and file.stat().st_size < 1 << 20:
        template = file.read_text("utf-8", "replace")
    return template if isinstance(template, str) else ""


def _vocabulary(
    tokenizer: dict[str, Any], settings: dict[str, Any], folder: Path, size: int
) -> dict[str, Value]:
    model = tokenizer["model"]
    if model.get("type", "BPE") != "BPE":
        raise LoadError(f"its tokenizer is a {str(model.get('type'))[:32]}, and only BPE is known")
    if not 0 < size <= MAX_TOKENS:
        raise LoadError(f"its vocabulary has {size} tokens")
    tokens = [f"[PAD{token}]" for token in range(size)]
    types = [_UNUSED] * size
    for text, token in model["vocab"].items():
        tokens[token], types[token] = str(text), _NORMAL
    sentencepiece = bool(model.get("byte_fallback"))
    if sentencepiece:
        for token, text in enumerate(tokens):
            if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
                types[token] = _BYTE
        if model.get("unk_token") in model["vocab"]:
            types[model["vocab"][model["unk_token"]]] = _UNKNOWN
    for added in tokenizer.get("added_tokens", ()):
        token = added["id"]
        if types[token] != _UNKNOWN:
            tokens[token], types[token] = str(added["content"]), _CONTROL if added.get("special") else _USER
    merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    ids = {text: token for token, text in enumerate(tokens)}
    values: dict[str, Value] = {
        "general.architecture": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_bos_token": _begins(tokenizer, settings),
        "tokenizer.ggml.add_eos_token": False,
    }
    if sentencepiece:
        values |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": _scores(ids, merges, size)}
        values["tokenizer.ggml.add_space_prefix"] = "Prepend" in str(tokenizer.get("normalizer"))
    else:
        values |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": _cut(tokenizer)}
        values["tokenizer.ggml.merges"] = merges
    values |= _ends(folder, settings, ids)
    if template := chat_template(folder, settings):
        values["tokenizer.chat_template"] = template
    return values


def _scores(ids: dict[str, int], merges: list[str], size: int) -> list[float]:
    """SentencePiece joins what scores best: what the earlier merge makes."""
    scores = [-float(size + len(merges))] * size
    for rank, merge in reversed(list(enumerate(merges))):
        if (token := ids.get(merge.replace(" ", ""))) is not None:
            scores[token] = -float(rank)
    return scores


def _cut(tokenizer: dict[str, Any]) -> str:
    told = tokenizer.get("pre_tokenizer") or {}
    steps = told.get("pretokenizers", [told])
    expression = "".join(
        str(step["pattern"].get("Regex", "")) for step in steps if step.get("type") == "Split"
    )
    if not expression and any(
        step.get("type") == "ByteLevel" and step.get("use_regex", True) for step in steps
    ):
        return "gpt-2"
    for part, name in _CUTS:
        if part in expression:
            return name
    raise LoadError("its tokenizer cuts words in a way that is not known here")


def _begins(tokenizer: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether a text begins with the token for it: said, or done by the template of the post-processor."""
    if isinstance(said := settings.get("add_bos_token"), bool):
        return said
    return "SpecialToken" in str(tokenizer.get("post_processor") or {})


def _ends(folder: Path, settings: dict[str, Any], ids: dict[str, int]) -> dict[str, Value]:
    config = read_json(folder / "generation_config.json") | read_json(folder / "config.json")
    found: dict[str, Value] = {}
    for name in ("bos", "eos"):
        told = settings.get(f"{name}_token")
        text = told.get("content") if isinstance(told, dict) else told
        listed = config.get(f"{name}_token_id")
        many = [one for one in (listed if isinstance(listed, list) else [listed]) if isinstance(one, int)]
        if isinstance(text, str) and text in ids:
            many = [ids[text], *(one for one in many if one != ids[text])]
        if many and 0 <= many[0] < len(ids):
            found[f"tokenizer.ggml.{name}_token_id"] = many[0]
        if name == "eos" and len(many) > 1 and 0 <= many[1] < len(ids):
            found["tokenizer.ggml.eot_token_id"] = many[1]
    return found
