"""Every fault that is put into a run is named first, with evidence and a command; a healthy run is not blamed."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from embedfit.cli.main import app
from embedfit.commands.diagnosing import diagnose
from embedfit.config import save
from embedfit.diagnosing.diagnosis import Diagnosis
from embedfit.errors import ArtifactMissing
from embedfit.files.flagembedding import read_flagembedding
from embedfit.path.artefacts import MergeSweep, Passage, Query, Summary, TrainingStep, TrainRow
from embedfit.path.workspace import Workspace, encode_whole
from embedfit.testing.run_folder import build_run
from embedfit.testing.tiny_model import make_tiny_bert
from tests.json_forms import printed

COMMANDS = typer.main.get_command(app)


def told(workspace, delta=0.001, ci95=(-0.008, 0.010), detectable=0.013, **rows):
    """Set the comparisons of the tuned systems in summary.json. rows: others, as A_against_B."""
    summary = workspace.load(Summary)
    named = {("default", "default_base"): (delta, ci95), ("merged", "base"): (delta, ci95),
             ("finetuned", "base"): (delta, ci95), ("default_base", "base"): (0.1, (0.08, 0.12))}  # fmt: skip
    named |= {tuple(name.split("_against_")): value for name, value in rows.items()}
    known = {(one.a, one.b) for one in summary.comparisons}
    merged = summary.comparison("merged", "base")
    added = [merged.model_copy(update={"a": a, "b": b}) for a, b in named if (a, b) not in known]
    changed = [
        one.model_copy(update={"delta": value[0], "ci95": value[1], "minimum_detectable": detectable})
        if (value := named.get((one.a, one.b))) and one.metric == "ndcg@10"
        else one
        for one in (*summary.comparisons, *added)
    ]
    workspace.store(summary.model_copy(update={"comparisons": tuple(changed)}))


@pytest.fixture
def made(run_copy):
    """A copy of a whole run in which tuning made no difference, and nothing is wrong."""
    workspace, config = run_copy()
    told(workspace)
    return workspace, config


def first(workspace, part):
    """The diagnosis, whose first cause must be this one, with a command that the command line takes."""
    found = diagnose(workspace.root)
    assert found.blamed and found.blamed[0].part == part, str(found)
    for one in found.blamed:
        words = shlex.split(one.command.replace("--eval-beir DIR", "--eval-beir x"))
        assert words[0] == "embedfit" and one.evidence
        command = COMMANDS.commands[words[1]]
        command.make_context(words[1], words[2:])
    assert [one.weight for one in found.blamed] == sorted((one.weight for one in found.blamed), reverse=True)
    return found.blamed[0]


def test_a_healthy_run_is_not_blamed(made):
    workspace, _ = made
    found = diagnose(workspace.root)
    assert (found.outcome, found.blamed) == ("no difference", ())
    assert "No part of the run stands out" in str(found) and "+0.1 points" in found.sentence


def test_where_tuning_helped_it_says_so_and_blames_nothing(made):
    workspace, _ = made
    workspace.path("train.jsonl").write_text("")  # whatever else is wrong
    told(workspace, 0.02, (0.01, 0.03))
    found = diagnose(workspace.root)
    assert (found.outcome, found.blamed) == ("helped", ())
    assert str(found) == "Tuning helped: +2.0 points of nDCG@10 [+1.0, +3.0] under the same retriever, on 90 questions."


def test_harm_is_called_harm(made):
    workspace, _ = made
    told(workspace, -0.02, (-0.03, -0.01), merged_against_base=(0.04, (0.03, 0.05)))
    found = diagnose(workspace.root)
    assert found.outcome == "harmed" and "With one vector a passage it gained +4.0 points" in found.sentence


# --- faults in the files of a run


def queries(workspace, change):
    """Change the written training queries. change: takes a query and its passage."""
    passages = {one.passage_id: one for one in workspace.read(Passage)}
    rows = [
        change(number, one, passages[one.passage_id]) if one.split == "train" else one
        for number, one in enumerate(workspace.read(Query))
    ]
    workspace.write(Query, rows)


def rows(workspace, change):
    """Change the training rows."""
    found = [change(number, row) for number, row in enumerate(read_flagembedding(workspace.path("train.jsonl")))]
    workspace.write(TrainRow, found)


def stored(workspace, config, **sections):
    """Change settings of the run."""
    changed = {
        name: getattr(config, name).model_copy(update=value) if isinstance(value, dict) else value
        for name, value in sections.items()
    }
    save(config.model_copy(update=changed), workspace.path("embedfit.toml"))


def test_queries_that_are_copies(made):
    workspace, _ = made
    queries(workspace, lambda number, one, passage: replace(one, text=" ".join(passage.text.split()[4:10])))
    assert "word by word" in first(workspace, "queries").evidence


def test_queries_that_repeat_one_another(made):
    workspace, _ = made
    rows(workspace, lambda number, row: replace(row, query="how do I do this") if number % 2 else row)
    assert 'such as "how do i do this" (' in first(workspace, "queries").evidence


@pytest.mark.parametrize(("k", "part"), [(0, "filters"), (20, "queries")])
def test_queries_about_other_passages(made, k, part):
    workspace, config = made
    stored(workspace, config, generate={"round_trip_k": k})
    queries(workspace, lambda number, one, passage: replace(one, text="where may I park on Sundays, and what is due"))
    cause = first(workspace, part)
    assert "share less than 10% of their words" in cause.evidence
    assert ("generate.round_trip_k=20" in cause.command) == (k == 0)


def test_filters_that_drop_most(made):
    workspace, _ = made
    dropped = "round trip: neither BM25 nor the base model finds its passage"
    all_rows = [
        one if number % 10 == 0 else replace(one, kept=False, reason=dropped)
        for number, one in enumerate(workspace.read(Query))
    ]
    workspace.write(Query, all_rows)
    cause = first(workspace, "filters")
    assert "dropped 91% of" in cause.evidence and "generate.round_trip_k=50" in cause.command


def test_negatives_that_are_positives(made):
    workspace, _ = made
    rows(workspace, lambda number, row: replace(row, neg=(f"Please note. {row.pos[0]}",), pos_scores=(), neg_scores=()))
    assert "in 100% of the rows" in first(workspace, "negatives").evidence


def test_negatives_that_the_teacher_scores_as_high(made):
    workspace, _ = made
    rows(
        workspace, lambda number, row: replace(row, neg=("Quite another text.",), pos_scores=(0.5,), neg_scores=(0.7,))
    )
    assert "scores as high" in first(workspace, "negatives").evidence


def test_negatives_do_no_harm_where_none_is_used(made):
    workspace, config = made
    stored(workspace, config, train={"hard_negatives": 0})
    rows(workspace, lambda number, row: replace(row, neg=(row.pos[0] + " again",), pos_scores=(), neg_scores=()))
    assert not diagnose(workspace.root).blamed


def test_twelve_rows(made):
    workspace, config = made
    found = workspace.load(Summary)
    workspace.store(found.model_copy(update={"data": found.data.model_copy(update={"train_rows": 12})}))
    cause = first(workspace, "too little data")
    assert cause.evidence.startswith("12 training rows") and "queries_per_passage=8" in cause.command
    stored(workspace, config, generate={"max_passages": 6})
    assert "generate.max_passages=0" in first(workspace, "too little data").command


def test_passages_that_training_cuts(made):
    workspace, config = made
    long = "wait until the light is green then wait until the light is red then wait until the light is blue then"
    workspace.write(Passage, [replace(one, title="", text=f"{long} {one.text}") for one in workspace.read(Passage)])
    assert not [one for one in diagnose(workspace.root).blamed if one.part == "length"]
    stored(workspace, config, train={"passage_max_tokens": 20})
    cause = first(workspace, "length")
    assert "18 tokens that training reads" in cause.evidence and "train.passage_max_tokens=0" in cause.command


def test_another_prompt_than_the_models_own(made):
    workspace, config = made
    stored(workspace, config, query_instruction="Represent the weather: ")
    cause = first(workspace, "prompt")
    assert 'its own is "query: "' in cause.evidence
    assert shlex.split(cause.command)[-1] == "query_instruction=query: "
    stored(workspace, config, query_instruction="query: ")
    assert not diagnose(workspace.root).blamed


def test_a_rate_that_is_too_high(made):
    workspace, _ = made
    sweep = workspace.load(MergeSweep)
    points = [one.model_copy(update={"dev": {"ndcg@10": 0.5 - 0.2 * one.alpha}}) for one in sweep.alphas]
    workspace.store(sweep.model_copy(update={"alphas": tuple(points)}))
    cause = first(workspace, "rate")
    assert "(α = 0.5) lost 10.0 points" in cause.evidence and "--set train.learning_rate=0.0004" in cause.command


def test_a_rate_that_is_too_low(made):
    workspace, config = made
    stored(workspace, config, train={"learning_rate": 1e-9})
    steps = workspace.read(TrainingStep) * 10
    workspace.write(TrainingStep, [replace(one, step=number, loss=2.5) for number, one in enumerate(steps, 1)])
    cause = first(workspace, "rate")
    assert "nothing was learned" in cause.evidence and "--set train.learning_rate=1e-08" in cause.command


def test_alpha_zero(made):
    workspace, config = made
    stored(workspace, config, merge={"alpha": 0.0})
    sweep = workspace.load(MergeSweep)
    decision = sweep.decision.model_copy(update={"alpha": 0.0, "ship": "base"})
    workspace.store(sweep.model_copy(update={"decision": decision}))
    told(workspace, finetuned_against_base=(0.05, (0.03, 0.07)))
    cause = first(workspace, "α")
    assert "0% of the tuned model" in cause.evidence and "gained +5.0 points" in cause.evidence


def test_a_base_that_does_not_know_the_words(made, tmp_path):
    workspace, config = made
    stored(workspace, config, model=str(make_tiny_bert(tmp_path / "strange", pooling="mean", words=["mute"])))
    cause = first(workspace, "the base")
    assert "does not seem to know" in cause.evidence and "e5-multilingual" in cause.command


def test_a_base_that_knows_it_all_and_a_blind_test(made):
    workspace, _ = made
    told(workspace, default_base_against_base=(0.001, (-0.01, 0.02)))
    assert "already knows what a teacher could teach it" in first(workspace, "the base").evidence
    told(workspace, detectable=0.07)
    assert "show differences from 7.0 points on" in first(workspace, "evaluation").evidence


def test_a_model_that_is_gone_and_files_that_are_missing(made):
    workspace, config = made
    stored(workspace, config, model="/no/such/model")
    workspace.path("train.jsonl").write_text("{")
    assert isinstance(diagnose(workspace.root), Diagnosis)
    workspace.path("summary.json").unlink()
    with pytest.raises(ArtifactMissing):
        diagnose(workspace.root)


def test_the_command(made):
    workspace, _ = made
    rows(workspace, lambda number, row: replace(row, neg=(f"Please note. {row.pos[0]}",), pos_scores=(), neg_scores=()))
    done = CliRunner().invoke(app, ["diagnose", "--run", str(workspace.root)])
    assert done.exit_code == 0 and "1. negatives: " in done.output and "   Try: embedfit run" in done.output
    done = CliRunner().invoke(app, ["diagnose", "--run", str(workspace.root), "--json"])
    record = printed("embedfit diagnose", done.stdout)
    assert Diagnosis.model_validate(record) == diagnose(workspace.root)
    assert CliRunner().invoke(app, ["diagnose", "--run", str(workspace.root / "none")]).exit_code != 0
    assert encode_whole(diagnose(workspace.root))


# --- faults that the stages really had


def strange(manuals: Path) -> None:
    """Every query was written of another passage than the one that it is kept for."""
    written = [json.loads(line) for line in (manuals / "written.jsonl").read_text().splitlines()]
    ids = [row["id"] for row in written]
    moved = [{**row, "id": other} for row, other in zip(written, [*ids[37:], *ids[:37]], strict=True)]
    (manuals / "written.jsonl").write_text("".join(json.dumps(row) + "\n" for row in moved))


def late(manuals: Path) -> None:
    """Every record begins with the same long sentence."""
    rows = [json.loads(line) for line in (manuals / "corpus.jsonl").read_text().splitlines()]
    for row in rows:
        row["title"] = ""
        row["text"] = (
            f"This manual belongs to the owner of the set and is kept in a dry place at all times. {row['text']}"
        )
    (manuals / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


FAULTS = {
    "filters": {"prepare": strange},
    "too little data": {"settings": {"generate": {"max_passages": 6}}},
    "length": {"prepare": late, "settings": {"train": {"passage_max_tokens": 16}}},
    "α": {"settings": {"merge": {"alpha": 0.0}}},
}


@pytest.mark.slow
@pytest.mark.parametrize("part", FAULTS)
def test_a_run_with_the_fault(part, tmp_path):
    workspace, _ = build_run(tmp_path, **FAULTS[part])
    told(workspace)  # a random model gains even so
    first(Workspace(workspace.root), part)
