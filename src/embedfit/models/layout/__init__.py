"""What a model folder is made of."""
