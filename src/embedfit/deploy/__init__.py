"""A model folder to a SageMaker endpoint and back: plan, apply, status, test, destroy."""
