"""The emitted file: its classes, the call of the module, and what it compares before the kernels run."""
