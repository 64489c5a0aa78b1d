"""Floor 4: stages, strategies, the study store."""
