"""The part of a model that reads tokens, for training."""
