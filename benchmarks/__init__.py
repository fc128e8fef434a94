"""Benchmarks that anyone can run: ``scripts/benchmark``. They measure, they do not judge."""
