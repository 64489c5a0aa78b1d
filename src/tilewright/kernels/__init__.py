"""Floor 1: kernel plans and the Triton emitter."""
