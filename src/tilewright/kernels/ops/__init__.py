"""Operations as Triton text: pointwise ones, integers, helpers with their plain twins, and what stays with PyTorch."""
