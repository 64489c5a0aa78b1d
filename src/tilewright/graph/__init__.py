"""Floor 1: the captured graph and its algebra."""
