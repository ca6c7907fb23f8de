"""Songs with their true stems: MUSDB18 in its forms, and folders of one's own."""
