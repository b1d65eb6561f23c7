"""A job's whole life against moto and the test kit: what is uploaded, followed, fetched, and that nothing is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from botocore.exceptions import ResponseStreamingError

from embedfit.deploy.account.calls import Aws
from embedfit.deploy.destroy import destroy
from embedfit.deploy.jobs.bring import Results
from embedfit.deploy.state import StateFile
from embedfit.errors import DeployError, EmbedfitError
from embedfit.runtime import Runtime
from tests.deploy.jobs.conftest import Desk, Work, write_results


def run_and_destroy(desk: Desk) -> None:
    destroy(
        desk.account.aws(),
        Runtime(report=desk.lines, confirm=lambda question: True),
        state_folder=desk.run_folder / "deploy",
        run="em",
        clock=desk.time.clock,
    )


def test_a_run_goes_there_and_comes_back_and_leaves_nothing(desk: Desk) -> None:
    desk.go()
    assert desk.brought
    assert (desk.run_folder / "ingest.manifest.json").exists()
    assert desk.account.everything() == {} or set(desk.account.everything()) == {"logs"}  # the group, not our streams
    assert desk.recorded() == []
    assert desk.jobs.running == []
    assert {path.suffix for path in (desk.run_folder / "deploy").iterdir()} == {
        "",
        ".json",
        ".log",
    }  # no folder is left
    assert "ingest: 2 documents" in desk.lines.text
    assert "sk-abc" not in desk.lines.text and "60 s billed: about" in desk.lines.text
    log = next((desk.run_folder / "deploy").glob("*.log")).read_text()
    assert "ingest: 2 documents" in log and "sk-abc" not in log
    assert len(desk.asked) == 1 and "at most $1.84" in desk.asked[0] and "estimate" in desk.asked[0]


def test_the_calls_are_those_of_the_plan_and_the_job_has_no_secret(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-user")
    plan = desk.cloud().plan()
    text = json.dumps(plan.as_json())
    assert "sk-of-the-user" not in text
    job = next(call for step in plan.steps for call in step.calls if call.operation == "create_training_job").parameters
    assert "Environment" not in job and "HyperParameters" not in job
    assert job["AlgorithmSpecification"]["ContainerEntrypoint"] == ["python3", "/opt/ml/input/data/embedfit/start.py"]
    assert job["StoppingCondition"] == {"MaxRuntimeInSeconds": 28800, "MaxWaitTimeInSeconds": 172800}
    assert job["EnableManagedSpotTraining"] is True
    assert job["CheckpointConfig"]["LocalPath"] == "/opt/ml/checkpoints"
    assert job["CheckpointConfig"]["S3Uri"].startswith(f"s3://{plan.bucket}/embedfit/{plan.name}/")
    seen = len(desk.account.faults.calls)
    desk.go()
    made = [one for one in desk.account.faults.calls[seen:] if one.split(".")[1].startswith(("Create", "Put"))]
    uploads = sum(call.operation == "upload_file" for step in plan.steps for call in step.calls)
    assert made == ["s3.PutObject"] * (uploads + 1) + ["sagemaker.CreateTrainingJob"]


#: Rights whose names are not those of the calls.
_ACTIONS = {
    "s3.HeadBucket": "s3:ListBucket",
    "s3.ListObjectsV2": "s3:ListBucket",
    "s3.ListObjectVersions": "s3:ListBucketVersions",
    "s3.ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "s3.DeleteObjects": "s3:DeleteObject",
    "s3.HeadObject": "s3:GetObject",
    "service-quotas.ListServiceQuotas": "servicequotas:ListServiceQuotas",
}


def test_the_rights_named_by_the_plan_are_enough(desk: Desk) -> None:
    plan = desk.cloud(role_arn=None, create_role=True).plan()
    desk.account.faults.calls.clear()
    desk.go(role_arn=None, create_role=True)
    needed = {_ACTIONS.get(call, call.replace(".", ":", 1)) for call in desk.account.faults.calls}
    allowed = {action for statement in plan.policies.deployer["Statement"] for action in statement["Action"]}
    assert needed <= allowed
    assert not [action for action in allowed if "*" in action]
    assert "roles" not in desk.account.everything()


@pytest.mark.slow
def test_a_plan_makes_nothing_here_or_there(desk: Desk) -> None:
    desk.cloud().plan()
    assert not desk.run_folder.exists()
    assert all(call.split(".")[1].startswith(("Get", "Head", "List", "Describe")) for call in desk.account.faults.calls)


def test_without_consent_nothing_is_made(desk: Desk) -> None:
    desk.agrees = False
    with pytest.raises(DeployError, match="did not agree"):
        desk.go()
    assert desk.account.everything() == {} and desk.recorded() == []


def test_the_same_command_goes_on_after_this_process_was_killed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("embedfit.deploy.jobs.job.follow", die)
        desk.go()
    assert len(desk.jobs.running) == 1
    assert {"artefact", "training_job", "job_log"} <= set(desk.recorded())
    (first,) = desk.jobs.jobs
    desk.go()
    assert list(desk.jobs.jobs) == [first], "the job that was there was followed"
    assert len(desk.asked) == 1, "nothing more is paid for, so nothing is asked"
    assert desk.brought and desk.recorded() == []


@pytest.mark.parametrize("where", ["bring", pytest.param("destroy_recorded", marks=pytest.mark.slow)])
def test_a_kill_while_results_come_or_things_are_deleted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    name = "Results.bring" if where == "bring" else where
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(f"embedfit.deploy.jobs.job.{name}", die)
        desk.go()
    assert "artefact" in desk.recorded()
    if where == "bring":
        desk.go()
        assert len(desk.jobs.jobs) == 1
        assert desk.brought
    else:
        assert desk.brought
        run_and_destroy(desk)
    assert desk.recorded() == [] and "objects" not in desk.account.everything()


@pytest.mark.slow
def test_another_command_is_refused_while_a_job_is_not_fetched(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> None:
        raise DeployError("the network is gone")

    with monkeypatch.context() as patch, pytest.raises(DeployError, match="network is gone") as caught:
        patch.setattr("embedfit.deploy.jobs.job.follow", gone)
        desk.go()
    assert "The job goes on. Give the same command again" in str(caught.value)
    (desk.folder / "docs" / "c.md").write_text("# New\n\nA new document.\n")
    with pytest.raises(DeployError, match="other documents, settings") as caught:
        desk.go()
    assert "embedfit deploy sagemaker destroy" in str(caught.value)
    run_and_destroy(desk)
    assert desk.jobs.running == [] and "objects" not in desk.account.everything()
    desk.go()
    assert desk.brought


def test_a_failed_job_is_told_with_its_reason_and_what_it_did_is_kept(desk: Desk) -> None:
    desk.code = 1
    with pytest.raises(DeployError, match="NaN weights") as caught:
        desk.go()
    assert "The same command goes on from there" in str(caught.value)
    assert desk.brought and desk.recorded() == [] and desk.jobs.running == []
    desk.code = 0
    desk.go()
    assert len(desk.jobs.jobs) == 2  # a name is never used twice


def test_ctrl_c_stops_the_job_fetches_and_cleans_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(desk.time, "sleep", interrupt)
    desk.looks = 1000
    with pytest.raises(KeyboardInterrupt):
        desk.go()
    assert [job.status for job in desk.jobs.jobs.values()] == ["Stopped"]
    assert desk.recorded() == [] and "objects" not in desk.account.everything()


def test_an_interruption_of_spare_capacity_goes_on_from_the_checkpoints(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def interrupt(seconds: float) -> None:
        """The first machine has half a training and a file that was deleted before its last listing."""
        (name,) = desk.jobs.jobs
        work = desk.jobs.jobs[name].command
        assert isinstance(work, Work)
        if work.root.parts[-3] != "machine-0":
            return
        (work.container.run / ".partial" / "train").mkdir(parents=True)
        (work.container.run / ".partial" / "train" / "state.json").write_text("{}")
        (work.container.run / "queries.jsonl").write_text("deleted by then")
        (work.container.kept / "files.json").write_text('{"files": {".partial/train/state.json": ""}}')
        work.ended = 143
        desk.jobs.interrupt(name)

    def write(run: Path) -> None:
        found.extend(path.name for path in run.rglob("*") if path.is_file())
        write_results(run)

    monkeypatch.setattr(desk.time, "sleep", interrupt)
    desk.write = write
    desk.go()
    assert "state.json" in found and "queries.jsonl" not in found
    assert desk.brought and desk.recorded() == []
    assert len(desk.jobs.jobs) == 1


@pytest.mark.slow
def test_keep_leaves_everything_there_and_says_how_to_delete_it(desk: Desk) -> None:
    desk.go(keep=True)
    assert desk.brought and "objects" in desk.account.everything()
    assert "embedfit deploy sagemaker destroy" in desk.lines.text
    run_and_destroy(desk)
    assert "objects" not in desk.account.everything()


def test_names_that_lead_out_of_the_run_folder_are_refused(desk: Desk) -> None:
    def write(run: Path) -> None:
        write_listing(run, "../../../evil.txt")

    def write_listing(run: Path, name: str) -> None:
        (run / "passages.jsonl").write_text("{}")
        (job,) = desk.jobs.jobs.values()
        listing = {"files": {name: "0" * 64}, "code": 0}
        job.command._end = lambda code: None  # keeps this listing
        job.command.ended = 0
        (job.command.container.kept / "files.json").write_text(json.dumps(listing))

    desk.write = write
    with pytest.raises(DeployError, match="not in the run folder"):
        desk.go()
    assert not (desk.folder / "evil.txt").exists()


def test_files_that_are_not_read_are_known_there_but_not_uploaded(desk: Desk) -> None:
    secret = desk.folder / "secret.md"
    secret.write_text("a secret outside the documents")
    (desk.folder / "docs" / "out.md").symlink_to(secret)
    (desk.folder / "docs" / ".env").write_text("KEY=1")
    (desk.folder / "docs" / "film.mp4").write_bytes(b"film")
    seen = {}

    def write(run: Path) -> None:
        from embedfit.config import load
        from embedfit.corpus.sources.discover import discover

        config = load(run / "embedfit.toml")
        workspace = type(desk.cloud().workspace)(run)
        seen["docs"] = [(one.document_id, one.problem, one.stored_path(workspace)) for one in discover(config.docs)]
        seen["texts"] = [path.read_bytes() for path in Path(config.docs[0]).rglob("*") if path.is_file()]

    desk.write = write
    desk.go()
    from embedfit.corpus.sources.discover import discover

    cloud = desk.cloud()
    here = discover(cloud.config.docs)
    assert seen["docs"] == [(one.document_id, one.problem, one.stored_path(cloud.workspace)) for one in here]
    assert any("a link out of the documents" in problem for _, problem, _ in seen["docs"])
    assert not any(text in (b"a secret outside the documents", b"KEY=1", b"film") for text in seen["texts"])


MODES = ("refused", "lost", "interrupted", "expired", "dead")
#: More calls than a job makes. The first ones are of the plan; 11 makes the job, and 16 asks for its log.
_CALLS = 45
_QUICK = ((8, "interrupted"), (11, "lost"), (24, "interrupted"), (34, "expired"))


@pytest.mark.parametrize(
    ("at", "mode"),
    [
        pytest.param(at, mode, marks=() if (at, mode) in _QUICK else pytest.mark.slow)
        for at in range(_CALLS)
        for mode in MODES
    ],
)
def test_a_failure_at_any_call_is_mended_by_the_same_command_or_destroy(desk: Desk, at: int, mode: str) -> None:
    faults = desk.account.faults
    faults.fail_at, faults.mode = at, mode
    with suppress(EmbedfitError, KeyboardInterrupt):
        desk.go()
    failed = at < len(faults.calls)
    faults.fail_at = None
    left = set(desk.recorded())
    there = desk.account.everything()
    assert not desk.jobs.running or "training_job" in left, "a job that runs is in the state"
    assert "objects" not in there or "artefact" in left, "what is in S3 is in the state"
    if at % 2 and failed:
        run_and_destroy(desk)
    else:
        desk.go()
        assert desk.brought
    assert desk.jobs.running == [] and desk.recorded() == []
    assert "objects" not in desk.account.everything() and "roles" not in desk.account.everything()
    assert StateFile(desk.run_folder / "deploy", desk.time.clock.now).read().deployments == ()


class _BreakingOff:
    """An S3 client whose objects' bodies break off, so many times, before they arrive whole."""

    def __init__(self, times: int) -> None:
        self.left = times

    def get_object(self, **_: str) -> dict[str, object]:
        return {"Body": self}

    def iter_chunks(self, _: int) -> Iterator[bytes]:
        yield b"half of "
        if self.left:
            self.left -= 1
            raise ResponseStreamingError(error="the connection was reset")
        yield b"it"


def test_an_object_whose_body_breaks_off_is_asked_for_again_and_is_never_half_there(tmp_path: Path) -> None:
    for times, whole in ((0, True), (4, True), (5, False)):
        target = tmp_path / str(times) / "model.bin"
        place = Results(
            aws=Aws(session=None, region="us-east-1", _clients={"s3": _BreakingOff(times)}), bucket="b", prefix="p/",
            place="run",
        )  # fmt: skip
        with nullcontext() if whole else pytest.raises(ResponseStreamingError):
            assert place._get("run/model.bin", target)
        assert target.exists() == whole
        assert not whole or target.read_bytes() == b"half of it"
