"""How `tetherctl status` tells of a node: what it is, where it can be dialled, how its peers are connected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cli import show

MAX_PATHS: Final = 20
"""Peers shown to people; programs get all."""
_REACHABLE: Final = {
    "public": "yes",
    "private": "private: others come over relays, or are dialled from here",
    "unknown": "unknown",
}

_ENGINE_COLUMNS: Final = {
    "model": "ENGINE",
    "state": "STATE",
    "sizes": "SLOTS",
    "threads": "THREADS",
    "gpuLayers": "GPU LAYERS",
    "memory": "MEMORY",
    "tokensPerSecond": "TOKENS/S",
}


def tell(answer: dict[str, Any]) -> None:
    """answer: of /status."""
    leader, reachability = answer["orchestrator"], answer["reachability"]
    show.facts(
        {
            "node": answer["nodeId"],
            "swarm": answer["swarmId"],
            "state": answer["state"],
            "region": answer["region"],
            "roles": answer["roles"],
            "http": answer["http"],
            "orchestrator": "this node" if leader == answer["nodeId"] else leader or "none known",
            "models": answer["models"],
            **_machine(answer["lends"]),
            "up": show.duration(answer["uptimeSeconds"]),
            "reachable": f"{_REACHABLE[reachability['state']]} ({reachability['why']})",
            "addresses": answer["addresses"],
            "peers": answer["peers"],
        }
    )
    _engines(answer["lends"])
    _paths(answer["paths"])


def _machine(lends: dict[str, Any] | None) -> dict[str, Any]:
    """Nothing of a node that is no worker."""
    if lends is None:
        return {}
    gpus = [f"{gpu['name']} with {_gb(gpu['memoryBytes'])}" for gpu in lends["gpus"]]
    cpu = f"{lends['cpu']} ({' '.join(lends['features']) or 'nothing special'})"
    return {
        "machine": f"{lends['cores']} cores of {cpu}, {_gb(lends['memoryBytes'])}; GPU: {', '.join(gpus) or 'none'}",
        "lends": f"{_gb(lends['budgetBytes'])} to engines, {_gb(lends['usedBytes'])} in use",
    }


def _engines(lends: dict[str, Any] | None) -> None:
    if lends is None:
        return
    rows = [
        {
            **engine,
            "sizes": f"{engine['slots']} x {engine['contextTokens']}",
            "memory": _gb(engine["needBytes"]) if engine["needBytes"] else None,
        }
        for engine in lends["engines"]
    ]
    print()
    show.table(rows, _ENGINE_COLUMNS, "")


def _gb(size: int) -> str:
    return f"{size / 1e9:.2g} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"


def _paths(connected: Sequence[dict[str, Any]]) -> None:
    if not connected:
        return
    rows = [
        {
            "peer": show.short(one["peer"]),
            "path": f"relayed by {show.short(one['relay'])}" if one["relay"] else one["path"],
            "address": one["address"],
        }
        for one in connected[:MAX_PATHS]
    ]
    print()
    show.table(rows, {"peer": "PEER", "path": "PATH", "address": "ADDRESS"}, "")
    if len(connected) > MAX_PATHS:
        print(f"and {len(connected) - MAX_PATHS} more, which `tetherctl --json status` names")
