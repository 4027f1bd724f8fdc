"""What this machine has and what its engines take of it, as `tetherctl status` tells it (docs/operations.md)."""

from __future__ import annotations

from typing import Any

from inference.device import Device
from inference.engine_room import EngineRoom


def lending(device: Device, room: EngineRoom) -> dict[str, Any]:
    return {
        "cpu": device.cpu,
        "features": list(device.features),
        "cores": device.cores,
        "memoryBytes": device.memory_bytes,
        "gpus": [{"name": gpu.name, "memoryBytes": gpu.memory_bytes} for gpu in device.gpus],
        "budgetBytes": room.budget_bytes,
        "usedBytes": room.used_bytes,
        "engines": [
            {
                "model": f"{lodging.offer.manifest.name}@{lodging.offer.manifest.version}",
                "state": state,
                "slots": lodging.offer.slots,
                "contextTokens": lodging.offer.context_tokens,
                "threads": lodging.offer.threads,
                "gpuLayers": lodging.offer.gpu_layers,
                "needBytes": lodging.offer.need_bytes,
                "exact": lodging.info.exact if lodging.info else None,
                "tokensPerSecond": round(lodging.info.tokens_per_second, 1) if lodging.info else None,
            }
            for state, lodging in room.lodgings()
        ],
    }
