"""Files: written whole or not at all, and read as data alone."""

FORMAT = 2  # of run folders and checkpoints; it rises when older ones cannot be taken up any more
