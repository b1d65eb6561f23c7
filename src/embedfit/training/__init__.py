"""Training rows → fine-tuned model."""
