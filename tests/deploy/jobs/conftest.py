"""A run folder whose job is done by a small function in place of a container's process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest

from embedfit.commands.cloud import inputs as inputs_module
from embedfit.commands.cloud.run import CloudRun, Place
from embedfit.config import Config, resolve
from embedfit.deploy.jobs.container import Container
from embedfit.deploy.jobs.layout import LISTING, listing_of
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from embedfit.testing.training_jobs import Command, TrainingJobs
from tests.deploy.fake_account import REGION, ROLE, Account, FakeTime
from tests.said import Said


@dataclass
class Work:
    """A container command that ends after some looks. It writes what `embedfit run` would, and a listing of it."""

    root: Path
    looks: int
    code: int
    write: Callable[[Path], None]
    ended: int | None = None

    def __post_init__(self) -> None:
        self.container = Container(self.root)
        self.container._prepare()

    def poll(self) -> int | None:
        if self.ended is None and self.looks == 0:
            self.write(self.container.run)
            self._end(self.code)
        self.looks -= 1
        return self.ended

    def wait(self, timeout: float | None = None) -> int:
        return self.ended or 0

    def send_signal(self, sig: int) -> None:
        self._end(143)

    def _end(self, code: int) -> None:
        self.ended = code
        (self.container.kept / LISTING).write_bytes(listing_of(self.container.run, code))
        if code:
            (self.root / "output" / "failure").write_text("the model has NaN weights")


def write_results(run: Path) -> None:
    """Two stages' files."""
    (run / "passages.jsonl").write_text('{"id": 1}\n')
    (run / "ingest.manifest.json").write_text('{"schema": 1}')
    (run / "merged" / "1_Pooling").mkdir(parents=True, exist_ok=True)
    (run / "merged" / "model.safetensors").write_bytes(b"tuned")
    (run / "merged" / "1_Pooling" / "config.json").write_text("{}")


@dataclass
class Desk:
    """A user's folder with documents, and the account."""

    folder: Path
    account: Account
    time: FakeTime
    lines: Said
    looks: int = 2
    code: int = 0
    write: Callable[[Path], None] = write_results
    agrees: bool = True
    jobs: TrainingJobs = field(init=False)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "docs" / "sub").mkdir(parents=True)
        (self.folder / "docs" / "a.md").write_text("# Sound\n\nPress the button to mute the sound.\n")
        (self.folder / "docs" / "sub" / "b.md").write_text("# Screen\n\nWipe the screen with a cloth.\n")
        s3, logs = self.account.plain("s3"), self.account.plain("logs")
        self.jobs = TrainingJobs(s3=s3, logs=logs, folder=self.folder / "machines", start=self._start)
        self.account.faults.answer = self.jobs

    def _start(self, command: list[str], root: Path, printed: Path) -> Command:
        assert command == ["python3", str(root / "input" / "data" / "embedfit" / "start.py")]
        assert Path(command[1]).is_file()
        printed.write_text("ingest: 2 documents\nOPENAI_API_KEY=sk-abcdefghijklmnopqrstuvwxyz\n")
        return Work(root, self.looks, self.code, self.write)

    @property
    def run_folder(self) -> Path:
        return self.folder / "runs" / "em"

    def cloud(self, *, config: Config | None = None, **changes: object) -> CloudRun:
        settings = {"docs": [str(self.folder / "docs")], "model": "minilm", "generate": {"generator": "local"}}
        options = {"role_arn": ROLE, **changes}

        def confirm(question: str) -> bool:
            self.asked.append(question)
            return self.agrees

        return CloudRun(
            workspace=Workspace(self.run_folder),
            config=config or resolve(overrides=settings),
            place=Place(target="sagemaker:ml.m5.xlarge", options=options, aws=self.account.aws(REGION)),
            runtime=Runtime(report=self.lines, confirm=confirm, ledger=self.folder / "ledger.sqlite"),
        )

    def go(self, **changes: object) -> None:
        self.cloud(**changes).run(self.time.clock)

    @property
    def brought(self) -> bool:
        merged = self.run_folder / "merged" / "model.safetensors"
        return merged.is_file() and merged.read_bytes() == b"tuned"

    def recorded(self) -> list[str]:
        path = self.run_folder / "deploy" / "state.json"
        deployments = json.loads(path.read_text())["deployments"] if path.exists() else []
        return [resource["kind"] for one in deployments for resource in one["resources"]]


@pytest.fixture
def desk(account: Account, time: FakeTime, lines: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    quota = {"QuotaName": "ml.m5.xlarge for spot training job usage", "QuotaCode": "L-2", "Value": 4.0}
    account.faults.canned["service-quotas.ListServiceQuotas"] = {"Quotas": [quota]}
    # The real wheel takes a second to pack; tests/deploy/jobs/test_wheel.py packs it.
    monkeypatch.setattr(
        inputs_module, "own_wheel", lambda: (f"embedfit-{version('embedfit')}-py3-none-any.whl", b"wheel")
    )
    return Desk(tmp_path / "home", account, time, lines)
