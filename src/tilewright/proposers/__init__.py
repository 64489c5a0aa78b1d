"""Floor 3: where candidates come from."""
