"""The choice of the container image that serves a model, by region and kind of instance."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal, TypedDict

from embedfit.errors import ModelError, UsageError

Device = Literal["cpu", "gpu"]

#: Instance families whose processor TEI's images can't use, with the reason.
_UNUSABLE = {
    "inf": "AWS Inferentia: Text Embeddings Inference has no Neuron build",
    "trn": "AWS Trainium: Text Embeddings Inference has no Neuron build",
    "dl": "Gaudi: the SageMaker images of Text Embeddings Inference have no Gaudi build",
    "p2": "NVIDIA K80 is too old: Text Embeddings Inference needs compute capability 7.5",
    "p3": "NVIDIA V100 is too old: Text Embeddings Inference needs compute capability 7.5",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A separate AWS: its name in ARNs and the suffix of its host names."""

    name: str
    dns_suffix: str


class _Repository(TypedDict):
    repository: str
    tag: str


class _PartitionRow(TypedDict):
    prefix: str
    partition: str
    dns_suffix: str


class _Training(TypedDict):
    repository: str
    version: str
    python: str
    accounts: dict[str, str]


class ImageTable(TypedDict):
    """data/images.json. accounts: the registry's, by region. partitions: by the region's prefix, longest first.

    training: AWS's image of PyTorch.
    """

    as_of: str
    repositories: dict[Device, _Repository]
    accounts: dict[str, str]
    partitions: list[_PartitionRow]
    training: _Training


@lru_cache(maxsize=1)
def table() -> ImageTable:
    """The packaged table of images."""
    data = resources.files("embedfit.deploy.account").joinpath("data/images.json").read_text("utf-8")
    loaded: ImageTable = json.loads(data)
    return loaded


def partition_of(region: str) -> Partition:
    """The partition of a region. Prefixes are tried longest first ("us-isob-" before "us-iso-")."""
    entry = next(entry for entry in table()["partitions"] if region.startswith(entry["prefix"]))
    return Partition(name=entry["partition"], dns_suffix=entry["dns_suffix"])


def family_of(instance_type: str) -> str:
    """The family of an instance type: "g5" of "ml.g5.xlarge". Raises UsageError for any other text."""
    parts = instance_type.split(".")
    if len(parts) != 3 or parts[0] != "ml" or not all(parts):
        raise UsageError(
            f"{instance_type!r} is not a SageMaker instance type.", remedy="For example: --instance-type ml.g5.xlarge"
        )
    return parts[1]


def device_of(instance_type: str) -> Device:
    """The image that an instance needs, for CPU or GPU. Raises UsageError if neither works on it."""
    family = family_of(instance_type)
    for prefix, reason in _UNUSABLE.items():
        if family.startswith(prefix):
            raise UsageError(
                f"{instance_type} can't serve this model. {reason}.",
                remedy="Use, for example, --instance-type ml.c6i.2xlarge (CPU) or ml.g5.xlarge (GPU).",
            )
    if is_arm(family):
        raise UsageError(
            f"{instance_type} is Graviton (ARM); the images of Text Embeddings Inference on SageMaker are x86-64.",
            remedy="Use, for example, --instance-type ml.c6i.2xlarge.",
        )
    return "gpu" if family[0] in "gp" else "cpu"


def has_local_disk(instance_type: str) -> bool:
    """Whether the instance stores on its own, hardware-encrypted disk: SageMaker then refuses a KMS key for it."""
    family = family_of(instance_type)
    return family[0] in "gp" or "d" in family[2:]


def is_arm(family: str) -> bool:
    """Whether an instance family has Graviton processors."""
    # c6g, m7gd, c6gn, r8g: a letter, a generation, then "g". GPU families start with g or p.
    return (
        len(family) > 2 and family[0] in "cmrtx" and family[1].isdigit() and family[2:].lstrip("0123456789")[:1] == "g"
    )


def image_uri(region: str, device: Device) -> str:
    """AWS's image of Text Embeddings Inference. Raises UsageError if the table has none for the region."""
    repository = table()["repositories"][device]
    image = f"{repository['repository']}:{repository['tag']}"
    return _registry(region, table()["accounts"], "Text Embeddings Inference") + image


def training_image(region: str, device: Device) -> str:
    """AWS's image of PyTorch for training. Raises UsageError if the table has none for the region."""
    facts = table()["training"]
    image = f"{facts['repository']}:{facts['version']}-{device}-{facts['python']}"
    return _registry(region, facts["accounts"], "PyTorch") + image


def _registry(region: str, accounts: dict[str, str], what: str) -> str:
    account = accounts.get(region)
    if account is None:
        raise UsageError(
            f"There is no known image of {what} in {region} (table of {table()['as_of']}).",
            remedy="Copy the image to an ECR repository there and give --image-uri, or choose one of: "
            + ", ".join(sorted(accounts)),
        )
    return f"{account}.dkr.ecr.{region}.{partition_of(region).dns_suffix}/"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageParts:
    """An ECR image URI taken apart."""

    account: str
    region: str
    repository: str
    tag: str


#: The first version of TEI that reads the Dense modules of a folder on its disk; 1.8.2 and older ones leave them out,
#: as backends/src/lib.rs of its source shows.
_READS_DENSE = (1, 8, 3)


def check_dense(uri: str) -> None:
    """Raise ModelError for an image whose TEI would leave out a Dense, and so give other vectors without a word."""
    named = re.search(r"tei(\d+)\.(\d+)\.(\d+)", uri)
    if named is None or tuple(map(int, named.groups())) >= _READS_DENSE:
        return
    raise ModelError(
        f"The image {uri.rpartition('/')[2]} would leave out the model's Dense (a query map, for example), and its "
        "vectors would be another model's. Text Embeddings Inference applies a folder's Dense from version 1.8.3 on.",
        remedy="Copy a newer image to an ECR repository and give --image-uri, or tune a whole tower: "
        "embedfit run … --set train.tune=query",
    )


def split_image_uri(uri: str) -> ImageParts | None:
    """The parts of an ECR image URI, or None for an image elsewhere."""
    host, _, path = uri.partition("/")
    labels = host.split(".")
    if len(labels) < 5 or labels[1:3] != ["dkr", "ecr"]:
        return None
    repository, _, tag = path.partition("@")[0].partition(":")
    return ImageParts(account=labels[0], region=labels[3], repository=repository, tag=tag or "latest")
