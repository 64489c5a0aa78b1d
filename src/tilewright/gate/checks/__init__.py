"""Every check of the gate as a row of a table, and why it exists."""
