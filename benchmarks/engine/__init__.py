"""The engine beside llama.cpp's own server: `make bench-engine`."""
