"""The memory of moto's server, which runs in this process."""

from moto.applicationautoscaling.models import applicationautoscaling_backends
from moto.iam.models import iam_backends
from moto.logs.models import logs_backends
from moto.s3.models import s3_backends
from moto.sagemaker.models import sagemaker_backends

__all__ = [
    "applicationautoscaling_backends",
    "iam_backends",
    "logs_backends",
    "s3_backends",
    "sagemaker_backends",
]
