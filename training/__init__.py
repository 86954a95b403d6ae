"""Runs: the loops that collect, train and evaluate, and the folder that a run lives in."""
