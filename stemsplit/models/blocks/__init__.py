"""Parts that more than one architecture is made of."""
