"""Code that runs in a sandboxed process, beside the candidate or the reference."""
