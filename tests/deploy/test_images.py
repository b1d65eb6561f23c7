from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import pytest

from embedfit.deploy.account.images import (
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


@pytest.fixture(scope="session")
def sagemaker_core(tmp_path_factory):
    """sagemaker-core's own tables: the wheel is only looked into, as its pins would fight ours."""
    folder = tmp_path_factory.mktemp("sagemaker-core")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "sagemaker-core==2.27.0"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("sagemaker-core can't be downloaded here")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        names = {"cpu": "huggingface-tei-cpu.json", "gpu": "huggingface-tei.json"}
        return {
            device: json.loads(wheel.read(f"sagemaker/core/image_uri_config/{name}"))["inference"]
            for device, name in names.items()
        }


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_table_agrees_with_sagemaker_core(device, sagemaker_core):
    assert table()["tei"] == list(sagemaker_core[device]["versions"])[-1]
    theirs = sagemaker_core[device]["versions"][table()["tei"]]
    assert table()["accounts"] == theirs["registries"]
    tag = f"{theirs['tag_prefix']}-{device}-{theirs['py_versions'][0]}-{theirs['container_version'][device]}"
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
