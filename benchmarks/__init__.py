"""Measurements: `python -m benchmarks --help`; nothing here is part of the library."""
