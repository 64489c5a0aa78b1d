"""What Triton's interpreter lacks or gets wrong, so that a kernel means there what it means on a GPU."""
