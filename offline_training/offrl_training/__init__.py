"""Offline training: algorithms, gate critics, trainer, checkpoints."""
