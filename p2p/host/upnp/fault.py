"""What goes wrong on the gateway's side."""

from __future__ import annotations


class GatewayFault(Exception):
    """There is no gateway, or it answers what it must not. code: UPnP's error code; 0 for anything else."""

    def __init__(self, detail: str, code: int = 0) -> None:
        super().__init__(detail)
        self.code = code
