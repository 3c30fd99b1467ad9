"""Going on with a trained run where new data comes in: from a simulator, or from new bags."""
