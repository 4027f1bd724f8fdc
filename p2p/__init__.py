"""Bytes, keys and streams between peers. Knows nothing of inference."""
