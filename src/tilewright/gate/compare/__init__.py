"""Errors of outputs: how they are compared with the right ones, and what is allowed. Both sides of the wall use it."""
