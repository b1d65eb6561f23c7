"""A run folder that the real stages make from a few manuals and a tiny model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from embedfit.config import Config, resolve, save
from embedfit.errors import CheckFailed
from embedfit.models.store.vectors import VectorStore
from embedfit.path.pipeline import run_all
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime
from embedfit.testing.tiny_model import make_tiny_bert

#: The manuals' subjects: each names a part and the actions on it.
PARTS = ("remote", "screen", "sound bar", "lock", "tuner", "timer", "antenna", "camera", "subtitles", "cable")
ACTS = ("mute", "reset", "pair", "disable", "update", "find", "clean", "mount", "charge", "store", "repair", "rename")
#: Text that would run, close an element or leave an attribute if a page showed it unescaped.
HOSTILE = (
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 2</script><!-- <script>",
    "<img src=x onerror='window.pwned=4'>",
    "{{ 7 * 7 }}",
)
HOSTILE_NAME = 'empty " onmouseover="window.pwned=3" x=".txt'


def build_run(
    folder: Path,
    *,
    human: bool = True,
    ship: bool = True,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    prepare: Callable[[Path], None] = lambda manuals: None,
) -> tuple[Workspace, Config]:
    """Make folder/run by every stage, from the documents in folder/manuals and with the model folder/model.

    human: the evaluation asks the questions of folder/manuals, not generated ones. ship: the tuned model ships,
    whatever its gate decides; else the base does. settings: by section, over those of this run. prepare: changes the
    documents and what is written of them before the run.
    """
    manuals = write_manuals(folder / "manuals")
    prepare(manuals)
    made = tiny_settings(folder, manuals, human=human, ship=ship)
    for section, values in (settings or {}).items():
        own = made.get(section, {})
        assert isinstance(own, dict)
        made[section] = {**own, **values}
    config = resolve(overrides=made)
    workspace = Workspace(folder / "run")
    runtime = Runtime(ledger=folder / "ledger.sqlite", vectors=VectorStore(folder / "vectors"))
    workspace.root.mkdir()
    save(config, workspace.path("embedfit.toml"))
    with suppress(CheckFailed):  # a random model may well fail it
        run_all(workspace, config, runtime)
    return workspace, config


def tiny_settings(folder: Path, manuals: Path, *, human: bool = True, ship: bool = True) -> dict[str, object]:
    """The settings of such a run, for the documents of write_manuals(). Makes the model in folder/model."""
    return {
        "docs": [str(manuals / "corpus.jsonl"), str(manuals / "files")],
        "eval_beir": str(manuals) if human else None,
        "model": str(make_tiny_bert(folder / "model", pooling="mean", words=_words(manuals))),
        "generate": {
            "generator": f"recorded:{manuals / 'written.jsonl'}",
            "queries_per_passage": 2,
            "round_trip_k": 0,
            "test_share": 0.4,
        },
        "mine": {"negatives": 2, "depth": 20},
        "train": {
            "loss": "infonce",
            "epochs": 2,
            "batch_size": 32,
            "hard_negatives": 1,
            "learning_rate": 2e-3,
            "precision": "fp32",
        },
        "merge": {"steps": 2, "max_alpha": 0.5, "always_ship": ship, "alpha": None if ship else 0.0},
        "evaluate": {"bootstrap": 100},
        "index": {"queries": "no"},
    }


def write_manuals(folder: Path) -> Path:
    """A BEIR folder of 120 records and 90 questions, queries that were written of the records, and three files."""
    topics = [(f"p{n}", act, part) for n, (act, part) in enumerate((act, part) for act in ACTS for part in PARTS)]
    records = [
        {"_id": key, "title": _with_hostile(PARTS.index(part), f"{part} manual"), "text": _passage(n, act, part)}
        for n, (key, act, part) in enumerate(topics)
    ]
    asked = topics[:90]
    questions = [{"_id": f"q-{key}", "text": _question(n, act, part)} for n, (key, act, part) in enumerate(asked)]
    judged = ["query-id\tcorpus-id\tscore", *(f"q-{key}\t{key}\t1" for key, _, _ in asked)]
    written = [{"id": key, **_queries(n, act, part)} for n, (key, act, part) in enumerate(topics)]
    for name, text in {
        "corpus.jsonl": _lines(records),
        "queries.jsonl": _lines(questions),
        "qrels/test.tsv": "\n".join(judged) + "\n",
        "written.jsonl": _lines(written),
        "files/warranty.txt": "The warranty of the set lasts for two years from the day on which it was bought.\n",
        "files/imprint.txt": "Printed on paper from the woods of the north.\n",
        f"files/{HOSTILE_NAME}": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


def _lines(rows: Iterable[Mapping[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _words(manuals: Path) -> list[str]:
    """The words of the corpus."""
    text = (manuals / "corpus.jsonl").read_text("utf-8").lower()
    return sorted(word for word in set(re.findall("[a-z]+", text)) if len(word) > 1)


def _with_hostile(number: int, text: str) -> str:
    """The texts, every fourth one with a hostile end; the ends take turns."""
    turn, rest = divmod(number, 4)
    return text if rest else f"{text} {HOSTILE[turn % len(HOSTILE)]}"


def _passage(number: int, act: str, part: str) -> str:
    light = ("green", "red", "blue")[number % 3]
    return _with_hostile(
        number, f"To {act} the {part}, hold button {number} until the light is {light}, then wait {number + 3} seconds."
    )


def _question(number: int, act: str, part: str) -> str:
    return _with_hostile(number, f"{act} {part}" if number % 3 == 1 else f"how can I {act} my {part}")


def _queries(number: int, act: str, part: str) -> dict[str, str]:
    return {
        "question": _question(number, act, part),
        "keywords": f"{act} {part} button {number}",
        "conversational": f"the light of my {part} is on, can I {act} it now",
        "claim": f"button {number} is there to {act} the {part}",
        "title": f"{number + 3} seconds to {act} a {part}",
    }
