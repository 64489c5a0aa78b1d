"""The probes of a task: which sizes, values and arguments prove something."""
