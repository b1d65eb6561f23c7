"""The job's own container command as a process: the whole path with a recorded writer, taken away once in between."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress

import pytest

from embedfit.config import resolve
from embedfit.errors import DeployError
from embedfit.llm.ledger import Ledger
from embedfit.path.freshness import all_freshness
from embedfit.testing.run_folder import tiny_settings, write_manuals
from embedfit.testing.training_jobs import start_process
from tests.deploy.jobs.conftest import Desk


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="SageMaker's containers are Linux")
def test_the_whole_path_in_a_container_that_is_taken_away_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    manuals = write_manuals(desk.folder / "manuals")
    settings = tiny_settings(desk.folder, manuals)
    desk.jobs.start = start_process
    seconds: list[float] = []
    taken: list[str] = []

    def sleep(_: float) -> None:
        seconds.append(0.5)
        assert sum(seconds) < 1200
        threading.Event().wait(0.5)  # the account's fixture has taken time.sleep away
        for name, job in list(desk.jobs.jobs.items()):
            if not taken and any((job.root / "checkpoints").rglob("generate.manifest.json")):
                taken.append(name)
                desk.jobs.interrupt(name)

    monkeypatch.setattr(desk.time, "sleep", sleep)
    cloud = desk.cloud(config=resolve(overrides=settings))
    with suppress(DeployError):  # a random model may fail its check of pairs, which ends the command with 1
        cloud.run(desk.time.clock)
    assert taken, "it was interrupted"
    assert (desk.run_folder / "report.html").exists()
    states = {name: (one.state, one.why) for name, one in all_freshness(cloud.workspace, cloud.config).items()}
    assert {state for state, _ in states.values()} == {"fresh"}, states
    with Ledger(desk.folder / "ledger.sqlite") as ledger:
        rows = list(ledger.rows())
        assert len({row.call_id for row in rows}) == len(rows) > 0
        assert {row.run for row in rows} == {str(desk.run_folder.resolve())}
    assert desk.recorded() == [] and desk.jobs.running == []
    desk.cloud(config=cloud.config).run(desk.time.clock)
    assert len(desk.jobs.jobs) == 1 and "no job is needed" in desk.lines.text
