import json
import sys
from pathlib import Path

import numpy as np
import pytest

from embedfit.path.artefacts import Passage, Query
from embedfit.path.workspace import Workspace

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def peers(monkeypatch):
    """The benchmark, imported as it imports itself when it is run."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import recipe_vs_peers

    yield recipe_vs_peers
    for name in ("recipe_vs_peers", "tuners", "corpora", "train_throughput"):
        sys.modules.pop(name, None)


def source(folder, count):
    """A run folder with a query of each passage; every fifth is of the dev part, every seventh was dropped."""
    workspace = Workspace(folder)
    folder.mkdir()
    split = ["dev" if row % 5 == 0 else "train" for row in range(count)]
    workspace.write(
        Passage,
        [
            Passage(passage_id=f"p{row}", document_id="d", title="", text=f"text {row}", split=split[row])
            for row in range(count)
        ],
    )
    workspace.write(
        Query,
        [
            Query(
                query_id=f"q{row}",
                passage_id=f"p{row}",
                text=f"query {row}",
                style="question",
                split=split[row],
                kept=row % 7 != 0,
                also_relevant=("p1", "p5"),
            )
            for row in range(count)
        ],
    )
    return workspace


def test_all_systems_get_the_same_rows_of_the_train_part_alone(peers, tmp_path):
    workspace = source(tmp_path / "run", 40)
    whole, pool = peers.training_data(peers.capped(workspace, tmp_path / "all", 0))
    kept = [row for row in range(40) if row % 5 and row % 7]
    assert [row["query"] for row in whole] == [f"query {row}" for row in kept]
    assert set(pool) == {f"text {row}" for row in range(40) if row % 5}
    assert all(set(row["pos"]) <= set(pool) for row in whole), "p5 is a dev passage"
    few, same_pool = peers.training_data(peers.capped(workspace, tmp_path / "few", 10))
    assert len(few) == 10 and same_pool == pool
    assert {row["query"] for row in few} < {row["query"] for row in whole}
    assert few == peers.training_data(peers.capped(workspace, tmp_path / "again", 10))[0]
    assert len(peers.training_data(peers.capped(workspace, tmp_path / "more", 100))[0]) == len(whole)


def test_what_decides_a_model_tells_recipes_apart(peers):
    efforts = (peers.Effort(), peers.QUICK)
    decided = {one.name: [json.dumps(one.decides(effort)) for effort in efforts] for one in peers.SYSTEMS}
    assert list(decided) == ["default", "infonce", "aws-blog", "FlagEmbedding", "sentence-transformers"]
    others = [value[0] for name, value in decided.items() if name != "default"]  # the preset may be any of them
    assert len(set(others)) == len(others)
    assert decided["FlagEmbedding"][0] != decided["FlagEmbedding"][1]
    for one in peers.SYSTEMS:
        assert all((BENCHMARKS / "peers" / script).exists() for script in one.scripts)


def test_rows_compare_each_system_with_the_base_and_the_default(peers):
    rng = np.random.default_rng(0)
    measured = []
    for name in ("a", "b"):
        base = rng.random(60) * 0.5
        values = {"base": base, "default": base + 0.2, "infonce": base + 0.1}
        one = peers.Measured(name=name, rows=7, clusters=np.arange(60))
        for system, of in values.items():
            outcome = peers.Outcome(values={"base": of, "default": of + 0.1}, seconds=3.0, peak_mb=10)
            one.systems[system] = outcome
        measured.append(one)
    for rows in (peers.rows_of(measured[:1]), peers.rows_of(measured)):
        by = {row["system"]: row for row in rows}
        for kind in peers.KINDS:
            assert by["base"][kind]["over_untuned"] is None and by["base"][kind]["default_over"] is None
            assert by["default"][kind]["over_untuned"]["delta"] == pytest.approx(0.2)
            assert by["default"][kind]["default_over"] is None
            assert by["infonce"][kind]["over_untuned"]["delta"] == pytest.approx(0.1)
            assert by["infonce"][kind]["default_over"]["delta"] == pytest.approx(0.1)
        assert peers.table(rows).count("\n") == len(rows) + 1
    assert {row["corpus"] for row in peers.rows_of(measured)} == {"mean of 2"}
