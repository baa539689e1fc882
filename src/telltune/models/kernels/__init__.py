"""Fast paths of training and generation: packed rows, fused layers, attention, loss."""
