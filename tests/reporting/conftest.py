"""Run folders for the tests of reporting."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedfit.reporting.evidence import Evidence, gather
from tests.run_folder import build_run


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    """What a run that ships its merged model says."""
    return gather(*build_run(tmp_path / "run"))
