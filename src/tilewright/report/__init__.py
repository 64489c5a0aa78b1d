"""Floor 5: terminal, HTML and JSON reports."""
