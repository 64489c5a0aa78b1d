"""The stages of the gate: each starts a sandboxed job and reads what it sent back."""
