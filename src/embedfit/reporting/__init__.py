"""The report for people and the model card."""
