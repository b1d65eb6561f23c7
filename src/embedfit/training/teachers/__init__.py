"""Teachers: scores that a model learns from."""
