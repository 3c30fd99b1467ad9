"""Sweeps: many runs over algorithms, options and seeds, on Ray."""
