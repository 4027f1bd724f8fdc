"""`tetherctl chat`: talk to the swarm through this machine's shim."""

from __future__ import annotations

import sys
from typing import Any

from cli.control import post_stream

Messages = list[dict[str, str]]


def ask(base: str, model: str, messages: Messages, *, show: bool) -> tuple[str, dict[str, Any]]:
    """Stream one answer, printing it as it comes if show. Returns its text and the final `tether` field."""
    text = ""
    outcome: dict[str, Any] = {}
    body = {"model": model, "messages": messages, "stream": True}
    with post_stream(base, "/v1/chat/completions", body) as events:
        for event in events:
            outcome = event.get("tether") or outcome
            for choice in event["choices"]:
                piece = choice["delta"].get("content") or ""
                text += piece
                if show:
                    print(piece, end="", flush=True)
    if show:
        print()
    return text, outcome


def converse(base: str, model: str) -> None:
    """Read lines until end of file or an empty line, keeping the conversation."""
    print(f"Chatting with {model}. An empty line or Ctrl-D ends it.", file=sys.stderr)
    messages: Messages = []
    while line := _read_line():
        messages.append({"role": "user", "content": line})
        text, _ = ask(base, model, messages, show=True)
        messages.append({"role": "assistant", "content": text})


def _read_line() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except (EOFError, KeyboardInterrupt):
        return ""
