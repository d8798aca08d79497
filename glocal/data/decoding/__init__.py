"""How image files become tensors: RGB in 8 bits, or values of any number of channels as they are stored."""
