"""What runs a model's core: real tensors in, real tensors out, and nothing else in sight."""
