"""Floor 2: the clock and the model."""
