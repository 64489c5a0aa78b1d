"""The GPUs: a table as data, detection, occupancy, speed of light."""
