"""Pure functions on sampled signals: transforms, overlap-add, filters. No files, no weights."""
