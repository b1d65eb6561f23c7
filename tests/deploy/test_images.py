from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from embedfit.deploy.images import (
    ImageParts,
    device_of,
    has_local_disk,
    image_uri,
    partition_of,
    split_image_uri,
    table,
)
from embedfit.errors import UsageError


def test_the_documented_images():
    assert image_uri("us-east-1", "cpu") == (
        "683313688378.dkr.ecr.us-east-1.amazonaws.com/tei-cpu:2.0.1-tei1.8.2-cpu-py310-ubuntu22.04"
    )
    assert image_uri("us-east-1", "gpu") == (
        "683313688378.dkr.ecr.us-east-1.amazonaws.com/tei:2.0.1-tei1.8.2-gpu-py310-cu122-ubuntu22.04"
    )


def test_the_table_has_every_documented_region():
    assert len(table()["accounts"]) == 35
    assert all(len(account) == 12 and account.isdigit() for account in table()["accounts"].values())


def test_partitions_agree_with_botocore():
    from botocore.session import get_session

    endpoints = get_session().get_data("endpoints")
    seen = 0
    for partition in endpoints["partitions"]:
        for region in partition["regions"]:
            assert partition_of(region).name == partition["partition"]
            assert partition_of(region).dns_suffix == partition["dnsSuffix"]
            seen += 1
    assert seen > 35


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_table_agrees_with_sagemaker_core(device):
    """SAGEMAKER_CORE names a folder with sagemaker-core's image_uri_config, from an environment of its own."""
    folder = os.environ.get("SAGEMAKER_CORE")
    if not folder:
        pytest.skip("set SAGEMAKER_CORE to the folder image_uri_config of sagemaker-core (make oracle-images)")
    name = {"cpu": "huggingface-tei-cpu.json", "gpu": "huggingface-tei.json"}[device]
    theirs = json.loads((Path(folder) / name).read_text())["inference"]["versions"][table()["tei"]]
    assert table()["accounts"] == theirs["registries"]
    container = theirs["container_version"][device]
    python = theirs["py_versions"][0]
    tag = f"{theirs['tag_prefix']}-{device}-{python}-{container}"
    assert table()["repositories"][device] == {"repository": theirs["repository"], "tag": tag}


def test_an_unknown_region_names_the_override():
    with pytest.raises(UsageError) as caught:
        image_uri("mars-north-1", "cpu")
    assert "--image-uri" in str(caught.value)


def test_every_instance_type_of_sagemaker_is_placed():
    from botocore.session import get_session

    types = get_session().get_service_model("sagemaker").shape_for("ProductionVariantInstanceType").enum
    placed = {}
    for name in types:
        try:
            placed[name] = device_of(name)
        except UsageError as error:
            assert error.remedy
            placed[name] = "refused"
    assert placed["ml.g5.xlarge"] == placed["ml.g4dn.xlarge"] == placed["ml.p4d.24xlarge"] == "gpu"
    assert (
        placed["ml.c6i.2xlarge"] == placed["ml.m5.large"] == placed["ml.r7i.large"] == placed["ml.c6in.large"] == "cpu"
    )
    for name in ("ml.inf2.xlarge", "ml.trn1.2xlarge", "ml.c7g.large", "ml.m6gd.large", "ml.r8g.large", "ml.p2.xlarge"):
        assert placed[name] == "refused", name


@pytest.mark.parametrize(
    ("instance_type", "local"),
    [
        ("ml.g5.xlarge", True),
        ("ml.g4dn.xlarge", True),
        ("ml.c5d.large", True),
        ("ml.c5.large", False),
        ("ml.m7i.large", False),
    ],
)
def test_local_disks(instance_type, local):
    assert has_local_disk(instance_type) is local


def test_image_uris_come_apart():
    assert split_image_uri(image_uri("cn-north-1", "cpu")) == ImageParts(
        account="450853457545", region="cn-north-1", repository="tei-cpu", tag="2.0.1-tei1.8.2-cpu-py310-ubuntu22.04"
    )
    assert split_image_uri("ghcr.io/huggingface/text-embeddings-inference:1.9") is None
