from embedfit.files.hashes import Hashes
from embedfit.path.freshness import outputs_of
from embedfit.path.stages import stage_named
from embedfit.reporting.stage import run
from embedfit.runtime import Runtime
from tests.said import Said


def test_the_report_and_the_card_are_written_and_the_model_is_left_alone(run_copy):
    workspace, config = run_copy()
    before = outputs_of(stage_named("merge"), workspace, Hashes(workspace.root))
    report = Said()
    run(workspace, config, Runtime(report=report))
    assert workspace.path("report.html").read_text("utf-8").startswith("<!doctype html>")
    assert workspace.path("merged/README.md").read_text("utf-8").startswith("---\n")
    assert outputs_of(stage_named("merge"), workspace, Hashes(workspace.root)) == before
    assert report.lines == [f"report: {workspace.path('report.html')}"]


def test_the_same_run_gives_the_same_report(run_copy):
    workspace, config = run_copy()
    run(workspace, config, Runtime())
    first = workspace.path("report.html").read_bytes()
    run(workspace, config, Runtime())
    assert workspace.path("report.html").read_bytes() == first


def test_what_is_missing_is_logged(run_copy):
    workspace, config = run_copy()
    workspace.path("evaluation.json").unlink()
    report = Said()
    run(workspace, config, Runtime(report=report))
    assert "report: evaluation.json is not there; its part is left out" in report.lines


def test_a_broken_model_folder_still_has_a_report(run_copy):
    workspace, config = run_copy()
    for name in ("merged/config.json", "merged/README.md"):
        workspace.path(name).unlink()
    run(workspace, config, Runtime())
    assert workspace.path("report.html").exists() and not workspace.path("merged/README.md").exists()
