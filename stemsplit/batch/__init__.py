"""Many songs: the same job for each, whatever becomes of the others."""
