"""The figures: every claim of speed, beside its peer, in one run (docs/benchmarks.md)."""
