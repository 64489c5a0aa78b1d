"""Floor 2: the gate."""
