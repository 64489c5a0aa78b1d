"""Any folder of modules: ours beside eager PyTorch and torch.compile, by the time of a call and of the GPU."""
