"""The networks: one contract (`base`), one catalogue, one file per architecture."""
