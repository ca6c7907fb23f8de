"""Layers of our own in C, faster than torch's on a processor, for inference."""
