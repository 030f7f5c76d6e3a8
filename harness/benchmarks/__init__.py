"""Benchmarks: lm-eval tasks run over a subject, every sample kept."""
