"""Parts of a graph that become one kernel: their axes, their rows and tiles, and how they lie in memory."""
