"""The user's AWS account: each service that a deployment uses."""
