"""Run a job in another process with limits and a deadline; what comes back is data."""
