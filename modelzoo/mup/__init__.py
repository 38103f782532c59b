"""Is a model's muP right: the same model at several widths, measured after a few steps of training."""
