"""An endpoint of SageMaker: its plan, and the calls that make it."""
