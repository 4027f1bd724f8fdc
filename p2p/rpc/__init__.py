"""Calls between peers: unary and streaming, multiplexed over few streams, and outliving every one of them."""

from p2p.rpc.limits import RpcLimits
from p2p.rpc.metrics import NoMetrics, RpcMetrics
from p2p.rpc.rpc import GUEST_PROTOCOL, MEMBER_PROTOCOL, Rpc, ServerCall

__all__ = ["GUEST_PROTOCOL", "MEMBER_PROTOCOL", "NoMetrics", "Rpc", "RpcLimits", "RpcMetrics", "ServerCall"]
