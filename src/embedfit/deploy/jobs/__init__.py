"""The command `embedfit run --on sagemaker:INSTANCE`: a whole run in a training job of SageMaker, and back."""
