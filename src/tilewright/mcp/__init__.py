"""Floor 6, beside the command: the bench as tools for agents, over the Model Context Protocol."""
