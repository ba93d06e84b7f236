"""The same work in other libraries. `python -m benchmarks.peers` measures them alone."""
