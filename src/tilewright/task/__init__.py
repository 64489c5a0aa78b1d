"""Tasks: documents, Python files and live modules, read into one typed `Task`."""
