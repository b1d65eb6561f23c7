"""The examples that start embedfit on clusters: their syntax, and every command of embedfit in them."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.test_commands import find

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LAUNCHERS = [*sorted(EXAMPLES.glob("*.yaml")), *sorted(EXAMPLES.glob("*.sh"))]
_CALL = re.compile(r"^[#\s]*(embedfit (?:run|index|train|ingest)\b.*)", re.MULTILINE)


def commands(path: Path) -> list[list[str]]:
    """The arguments of every call of embedfit, in comments too."""
    text = re.sub(r"\\\n#?", " ", path.read_text("utf-8"))
    found = [match[1] for match in _CALL.finditer(text)]
    found += re.findall(r"-- +(embedfit [^\n]*)", text)
    found += re.findall(r'-w "\$\{nodes\[0\]\}" +(embedfit [^\n]*)', text)
    return [shlex.split(one)[1:] for one in found]


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_every_command_of_a_launcher_parses(path: Path) -> None:
    calls = commands(path)
    assert calls, "a launcher calls embedfit"
    for call in calls:
        found, name, arguments = find(call)
        found.make_context(name, arguments)


def test_a_wrong_option_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "a.sh").write_text("embedfit run docs --rum x\n")
    ((found, name, arguments),) = [find(call) for call in commands(tmp_path / "a.sh")]
    with pytest.raises(Exception, match="No such option"):
        found.make_context(name, arguments)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.sh")), ids=lambda path: path.name)
def test_a_script_is_one_of_bash(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=60)


def documents(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text("utf-8"))


def test_the_task_of_skypilot_has_its_parts(tmp_path: Path) -> None:
    task = documents("skypilot.yaml")
    assert set(task) <= {"name", "resources", "workdir", "setup", "run", "envs", "num_nodes", "file_mounts"}
    assert set(task["resources"]) <= {"accelerators", "disk_size", "use_spot", "cloud", "region", "cpus", "memory"}
    for part in ("setup", "run"):
        (tmp_path / part).write_text(task[part])
        subprocess.run(["bash", "-n", str(tmp_path / part)], check=True, timeout=60)


def test_the_cluster_of_kuberay_shares_folders_and_not_the_ledger() -> None:
    cluster = documents("raycluster.yaml")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    workers = [group["template"]["spec"] for group in cluster["spec"]["workerGroupSpecs"]]
    for spec in (head, *workers):
        (container,) = spec["containers"]
        named = {volume["name"] for volume in spec["volumes"]}
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounted) == named and mounted["shared"] == "/shared"
        assert {"name": "EMBEDFIT_CACHE", "value": "/shared/cache"} in container["env"]
        assert ("ledger" in mounted) == (spec is head), "the ledger has one owner"
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
