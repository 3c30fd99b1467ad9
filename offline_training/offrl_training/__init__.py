"""Offline training: algorithms, trainer, checkpoints."""
