"""The real engine: the same decisions as the simulator, carried out on real tensors."""
