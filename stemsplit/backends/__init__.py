"""What runs a model's core: real tensors in, real tensors out, and nothing else in sight."""

BACKENDS = ("auto", "torch", "compile", "openvino")
"""What one may ask for; here, where no runtime is imported for it."""
