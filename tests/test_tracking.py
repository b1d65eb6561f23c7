"""What an experiment tracker gets of a run, and that a tracker can't stop one."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedfit.cli import main as cli
from embedfit.commands import runs
from embedfit.config import Config, resolve, save
from embedfit.errors import MissingDependency, UsageError
from embedfit.path.artefacts import DevScore, Summary, TrainingStep
from embedfit.path.tracked import settings_shown
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from embedfit.tracking import Start, Tracking, tracking_for, without_secrets
from tests.said import Said

RunCopy = Callable[..., tuple[Workspace, Config]]
Row = tuple[str, int | None, float]


class Kept:
    """A tracker that keeps what it gets. fails: the names of the methods that raise."""

    def __init__(self, start: Start, fails: tuple[str, ...] = ()) -> None:
        self.start, self.fails = start, fails
        self.rows: list[Row] = []
        self.files: list[Path] = []
        self.ended: list[bool] = []

    def log(self, values: Mapping[str, float], step: int | None) -> None:
        self._perhaps("log")
        self.rows += [(name, step, value) for name, value in values.items()]

    def artefact(self, path: Path) -> None:
        self._perhaps("artefact")
        self.files.append(path)

    def close(self, *, failed: bool) -> None:
        self._perhaps("close")
        self.ended.append(failed)

    def _perhaps(self, method: str) -> None:
        if method in self.fails:
            raise ConnectionError(f"{method}: https://me:hunter2@track.example refused")


@pytest.fixture
def kept() -> tuple[list[Kept], Callable[..., Tracking]]:
    opened: list[Kept] = []

    def tracking(*fails: str) -> Tracking:
        def opener(start: Start) -> Kept:
            opened.append(Kept(start, fails))
            opened[-1]._perhaps("open")
            return opened[-1]

        return Tracking(opener, name="a tracker")

    return opened, tracking


def losses(workspace: Workspace) -> list[Row]:
    return [("train/loss", step.step, step.loss) for step in workspace.read(TrainingStep)]


def test_a_training_is_tracked_as_it_goes_and_a_finished_run_afterwards(run_copy: RunCopy, kept: Any) -> None:
    opened, tracking = kept
    workspace, _ = run_copy()
    runs.run_stage("train", run=workspace.root, assignments=["train.epochs=1"], runtime=Runtime(tracking=tracking()))
    live = opened[0]
    assert [row for row in live.rows if row[0] == "train/loss"] == losses(workspace)
    assert live.ended == [False] and live.files == [] and live.start.folder == workspace.root
    assert {name for name, _, _ in live.rows} == {
        "train/loss", "train/learning_rate", "train/gradient_norm", "dev/ndcg_at_10"
    }  # fmt: skip
    runs.run_stage("train", run=workspace.root, runtime=Runtime(tracking=tracking()))
    assert opened[1].rows == live.rows, "what is up to date is sent from the files, and the same"


def test_the_systems_and_the_report_of_a_run_are_tracked(run_copy: RunCopy, kept: Any) -> None:
    opened, tracking = kept
    workspace, _ = run_copy()
    runs.run_stage("report", run=workspace.root, runtime=Runtime(tracking=tracking()))
    (one,) = opened
    systems = workspace.load(Summary).systems
    expected = {f"systems/{name}/ndcg_at_10": system.metrics["ndcg@10"] for name, system in systems.items()}
    sent = {name: value for name, _, value in one.rows}
    assert expected and expected.items() <= sent.items()
    low, high = systems["base"].ci95["ndcg@10"]
    assert (sent["systems/base/ndcg_at_10/low"], sent["systems/base/ndcg_at_10/high"]) == (low, high)
    assert one.files == [workspace.path("report.html")] and one.ended == [False]


def test_what_is_not_up_to_date_is_not_sent(run_copy: RunCopy, kept: Any) -> None:
    opened, tracking = kept
    workspace, config = run_copy()
    save(config.model_copy(update={"seed": 5}), workspace.path("embedfit.toml"))
    with pytest.raises(RuntimeError, match="interrupted"):
        runs.run_stage("check", run=workspace.root, runtime=Runtime(tracking=tracking(), report=Interrupts()))
    assert opened[0].rows == [] and opened[0].files == [] and opened[0].ended == [True]


class Interrupts(Said):
    """A display that ends the work when a stage has done it."""

    def log(self, message: str) -> None:
        if message.startswith("check: done"):
            raise RuntimeError("interrupted")


@pytest.mark.parametrize("method", ["open", "log", "artefact", "close"])
def test_a_tracker_that_fails_costs_one_warning_and_nothing_else(method: str, run_copy: RunCopy, kept: Any) -> None:
    _, tracking = kept
    workspace, _ = run_copy()
    said = Said()
    runs.run_stage("report", run=workspace.root, force=True, runtime=Runtime(tracking=tracking(method), report=said))
    warnings = [line for line in said.lines if line.startswith("Warning: a tracker failed")]
    assert len(warnings) == 1 and "the run goes on" in warnings[0] and "ConnectionError" in warnings[0]
    assert "hunter2" not in warnings[0] and "track.example" in warnings[0]
    assert workspace.path("report.html").exists()


@settings(max_examples=30)
@given(steps=st.integers(1, 9), scored=st.sets(st.integers(0, 9)))
def test_past_steps_come_in_their_order(steps: int, scored: set[int]) -> None:
    one: list[Kept] = []
    tracking = Tracking(lambda start: one.append(Kept(start)) or one[-1])
    tracking.begin(Path("r"), {}, Said())
    records = [TrainingStep(step=n, loss=n, lr=1, grad_norm=1, seconds=1, tokens=1) for n in range(1, steps + 1)]
    dev = [DevScore(step=n, ndcg10=n / 100) for n in sorted(scored) if n <= steps]
    tracking.past_training(records, dev)
    order = [step for _, step, _ in one[0].rows]
    assert order == sorted(order), "Weights & Biases drops a step that comes after a later one"
    assert [step for name, step, _ in one[0].rows if name == "dev/ndcg_at_10"] == [score.step for score in dev]
    assert len([1 for name, _, _ in one[0].rows if name == "train/loss"]) == steps


def test_settings_hold_no_secret_and_no_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-1234567890")
    config = resolve(
        overrides={
            "docs": [str(tmp_path / "private.pdf")],
            "model": "minilm",
            "generate": {
                "generator": "openai:http://me:hunter2@10.0.0.1/v1",
                "domain": "notes on sk-1234567890",
                "extra_body": {"api_key": "sk-other"},
            },
            "train": {"epochs": 2},
        }
    )
    shown = settings_shown(config)
    assert shown["model"] == "minilm" and shown["train.epochs"] == 2 and "seed" in shown and "preset" in shown
    text = json.dumps(shown)
    assert not any(secret in text for secret in ("hunter2", "sk-1234567890", "sk-other", "private.pdf"))
    assert "10.0.0.1" in text


@settings(max_examples=30)
@given(
    password=st.from_regex(r"[A-Za-z0-9!%.:-]{1,20}", fullmatch=True),
    host=st.from_regex(r"[a-z]{1,9}\.example", fullmatch=True),
)
def test_passwords_in_addresses_are_left_out(password: str, host: str) -> None:
    assert without_secrets(f"at https://user:{password}@{host}/x, no") == f"at https://{host}/x, no"


def test_a_tracker_that_is_not_there_is_said_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="trackio, wandb, mlflow, tensorboard"):
        tracking_for("comet")
    monkeypatch.setattr("embedfit.tracking.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install wandb"):
        tracking_for("wandb:mine")
    with pytest.raises(MissingDependency, match=r"embedfit\[tracking\]"):
        tracking_for("tensorboard")
    with pytest.raises(SystemExit) as caught:
        cli.main(["run", "none.txt", "--track", "comet"])
    assert caught.value.code == 2 and "no tracker 'comet'" in capsys.readouterr().err
    assert not tracking_for(None).is_wanted


# --- the trackers themselves


def events(folder: Path) -> Iterator[Any]:
    """The events of TensorBoard's files: each a length in eight bytes, a sum in four, the event, a sum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.glob("events.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (size,) = struct.unpack_from("<Q", content, place)
            yield Event.FromString(content[place + 12 : place + 12 + size])
            place += 16 + size


def test_tensorboard_reads_the_losses(run_copy: RunCopy, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboardX")
    workspace, _ = run_copy()
    cli_ended = pytest.raises(SystemExit)
    with cli_ended:
        cli.main(["report", "--run", str(workspace.root), "--track", "tensorboard"])
    scalars: list[Row] = []
    texts: set[str] = set()
    for event in events(workspace.path("tensorboard")):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                scalars.append((value.tag, event.step, value.simple_value))
            else:
                texts.add(value.tag)
    found = [row for row in scalars if row[0] == "train/loss"]
    assert [row[:2] for row in found] == [row[:2] for row in losses(workspace)]
    assert [row[2] for row in found] == pytest.approx([row[2] for row in losses(workspace)])
    assert "systems/base/ndcg_at_10" in {row[0] for row in scalars}
    assert {"settings/text_summary", "report.html/text_summary"} == texts


class Fake(ModuleType):
    """A module that keeps its calls: the functions of wandb, trackio and mlflow that embedfit uses, and no others."""

    FUNCTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "wandb": ("init", "log", "log_artifact", "finish", "Settings"),
        "trackio": ("init", "log", "log_artifact", "finish"),
        "mlflow": ("set_experiment", "start_run", "log_params", "log_metrics", "log_artifact", "end_run"),
    }

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        for function in self.FUNCTIONS[name]:
            setattr(self, function, self._function(function))

    def _function(self, name: str) -> Callable[..., None]:
        def call(*given: Any, **named: Any) -> None:
            sys.stdout.write(f"{name} says something")
            self.calls.append((name, given, named))

        return call


@pytest.mark.parametrize("name", Fake.FUNCTIONS)
def test_each_tracker_is_called_as_its_api_wants(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = Fake(name)
    monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    tell(tracking_for(f"{name}:shop"), tmp_path / "my run", Said())
    calls = [(function, named or given) for function, given, named in fake.calls if function != "Settings"]
    if name == "mlflow":
        assert [function for function, _ in calls] == [
            "set_experiment", "start_run", "log_params", *["log_metrics"] * 3, "log_artifact", "end_run"
        ]  # fmt: skip
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5", "what the user set holds"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "20", "a server that is not there must not hold up a run"
        assert calls[0][1] == ("shop",) and calls[1][1] == {"run_name": "my run"} and calls[-1][1] == ("FINISHED",)
    else:
        assert [function for function, _ in calls] == ["init", *["log"] * 3, "log_artifact", "finish"]
        assert calls[0][1].items() >= {"project": "shop", "name": "my run", "config": {"model": "m"}}.items()
        assert calls[-2][1] == {"name": "my-run-report", "type": "report"}
    said = capsys.readouterr()
    assert said.out == "" and "says something" in said.err, "standard output is the result of a command"


def tell(tracking: Tracking, folder: Path, said: Said) -> None:
    folder.mkdir()
    (folder / "report.html").write_text("<p>found</p>")
    tracking.begin(folder, {"model": "m"}, said)
    tracking.log({"dev/ndcg@10": 0.1}, 0)
    tracking.log({"train/loss": 0.5}, 1)
    tracking.log({"systems/titan:v2#x y/ndcg@10": 0.3})
    tracking.artefact(folder / "report.html")
    tracking.close(failed=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trackio", "wandb", "mlflow"])
def test_the_installed_tracker_takes_a_run_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    pytest.importorskip(name, exc_type=ImportError)
    assert import_module(name)
    said = Said()
    tell(tracking_for(name), tmp_path / "my run", said)
    assert said.lines == []
