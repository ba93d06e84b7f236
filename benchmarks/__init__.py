"""Measurements against PyTorch and other engines: `python -m benchmarks`."""
