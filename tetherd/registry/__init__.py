"""Which models there are: what --model names, and what the swarm serves."""
