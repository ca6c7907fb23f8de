"""From a song to its stems in one stream: plan, chunks, network, overlap-add, files."""
