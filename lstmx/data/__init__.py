"""Data for training: the forms of X, targets and weights, and the batches of a pass."""
