"""Training: recipes, excerpts, losses, and the loop that turns them into a model."""
