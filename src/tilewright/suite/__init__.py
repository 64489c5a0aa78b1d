"""A folder of tasks, optimised one after another or on a fleet, and the table of what came of it."""
