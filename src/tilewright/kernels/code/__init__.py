"""Text of emitted code."""
