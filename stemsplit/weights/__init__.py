"""Weights: the registry says what there is, the store fetches and checks it, `convert` reads it.

Nothing is imported here, so that `stemsplit.weights.registry` stays fast and free of torch.
"""
