"""Bags to datasets: reading logs, the conversion, the dataset file."""
