"""What talks to Triton: its versions, its interpreter, the memory that interpreted kernels touch."""
