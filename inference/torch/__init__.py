"""Llama-family models computed by PyTorch, on a CPU or an NVIDIA GPU."""
