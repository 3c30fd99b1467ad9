"""Estimates from logs how a base differs from the simulated one."""
