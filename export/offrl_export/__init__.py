"""From a training run to the policy file: graph, parity, gate calibration."""
