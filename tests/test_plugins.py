"""The door that others and our own parts come in by: entry points."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import embedfit
from embedfit import plugins
from embedfit.errors import UsageError
from tests.plug_in import install

GROUP = "embedfit.toys"


def test_places_are_known_without_importing_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert plugins.places(GROUP) == {}
    install(tmp_path, "raise RuntimeError", "ball = stranger:TOY", monkeypatch, group=GROUP)
    assert plugins.places(GROUP) == {"ball": "stranger:TOY"}
    assert "stranger" not in sys.modules


def test_one_is_found_without_loading_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "TOY = 7", "ball = stranger:TOY\nbroken = nowhere:TOY", monkeypatch, group=GROUP)
    assert plugins.find(GROUP, "ball", int) == 7
    with pytest.raises(UsageError, match=r"There is no 'kite' among the toys\.") as caught:
        plugins.find(GROUP, "kite", int)
    assert "ball, broken" in str(caught.value)


def test_an_installed_package_finds_its_own_parts_in_its_metadata(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "site-packages"
    about = site / "embedfit-9.dist-info"
    about.mkdir(parents=True)
    (site / "embedfit").symlink_to(Path(embedfit.__file__).parent)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: embedfit\nVersion: 9\n")
    (about / "entry_points.txt").write_text(f"[{GROUP}]\nball = embedfit.toys:BALL\n")
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); from embedfit.plugins import places; print(places({GROUP!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={})
    assert done.stdout.strip() == "{'ball': 'embedfit.toys:BALL'}"
