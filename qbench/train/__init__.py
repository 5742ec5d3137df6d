"""One trial: training, checkpoints, limits, loading."""
