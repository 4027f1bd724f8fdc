"""yamux as libp2p speaks it: frames, budget, flow and session decide and know no IO; muxer carries out.

https://github.com/hashicorp/yamux/blob/master/spec.md and https://github.com/libp2p/specs/blob/master/yamux
"""
