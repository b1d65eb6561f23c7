"""Results in MTEB's format: DIR/MODEL/REVISION/TASK.json and model_meta.json, as its leaderboard and tools read them.

The format is that of mteb 1.11 and later (mteb/results/task_result.py): a list of scores for each split, each with its
main score, subset and languages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from embedfit.comparing.compare import Compared
from embedfit.evaluation.evalset import EvalSet
from embedfit.evaluation.measure import DEPTH, Measured
from embedfit.files.atomic import atomic_file
from embedfit.files.beir import beir_files
from embedfit.files.hashes import sha256_file
from embedfit.path.workspace import sha256_json
from embedfit.retrieval.languages import languages_of, script_of
from embedfit.retrieval.metrics import judge, score

#: Ranks that MTEB reports, as deep as the rankings are.
_RANKS = tuple(k for k in (1, 3, 5, 10, 20, 100) if k <= DEPTH)
_METRICS = {"ndcg": "ndcg", "map": "map", "recall": "recall", "precision": "precision", "mrr": "mrr", "hit": "hit_rate"}
#: MTEB's word for a model whose revision nobody knows.
_NO_REVISION = "no_revision_available"
#: ISO 639-3 codes of languages, and ISO 15924 codes of scripts.
_LANGUAGES = {
    "ar": "ara", "bg": "bul", "cs": "ces", "da": "dan", "de": "deu", "el": "ell", "en": "eng", "es": "spa", "et": "est",
    "fa": "fas", "fi": "fin", "fr": "fra", "he": "heb", "hi": "hin", "hu": "hun", "id": "ind", "it": "ita", "ja": "jpn",
    "ko": "kor", "nl": "nld", "no": "nor", "pl": "pol", "pt": "por", "ro": "ron", "ru": "rus", "sv": "swe", "th": "tha",
    "tr": "tur", "uk": "ukr", "vi": "vie", "zh": "zho",
}  # fmt: skip
_SCRIPTS = {
    "Latin": "Latn", "Cyrillic": "Cyrl", "Arabic": "Arab", "Greek": "Grek", "Hebrew": "Hebr", "Devanagari": "Deva",
    "Japanese": "Jpan", "Korean": "Hang", "Chinese": "Hans", "Thai": "Thai",
}  # fmt: skip


def write_mteb(compared: Compared, beir: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Write every system's result. Returns (the files, the names of systems that have no rankings and so no result).

    Metrics are counted as MTEB does, by trec_eval's formulas; equal scores keep the order of the comparison.
    """
    revision = sha256_json({name: sha256_file(path) for name, path in beir_files(beir).items()})[:40]
    languages = _languages(compared.eval_set)
    files, without = [], []
    for name, measured in compared.measured.items():
        if not measured.found:
            without.append(name)
            continue
        model = _file_name(name)
        target = folder / model / _NO_REVISION
        target.mkdir(parents=True, exist_ok=True)
        result: dict[str, JsonValue] = {
            "dataset_revision": revision,
            "task_name": beir.resolve().name,
            "mteb_version": None,
            "scores": {"test": [{**_scores(measured, compared.eval_set), **languages}]},
            "evaluation_time": compared.record.seconds,
            "kg_co2_emissions": None,
        }
        _write(target / f"{_file_name(beir.resolve().name)}.json", result)
        _write(target / "model_meta.json", {"name": name, "revision": _NO_REVISION, "framework": ["embedfit"]})
        files.append(target / f"{_file_name(beir.resolve().name)}.json")
    return files, without


def _scores(measured: Measured, eval_set: EvalSet) -> dict[str, JsonValue]:
    judgement = judge(measured.found, eval_set.relevant)
    names = {f"{ours}@{k}": f"{theirs}_at_{k}" for ours, theirs in _METRICS.items() for k in _RANKS}
    found = score(judgement, tuple(names), "trec_eval")
    scores: dict[str, JsonValue] = {names[name]: round(float(values.mean()), 6) for name, values in found.items()}
    return {**scores, "main_score": scores["ndcg_at_10"], "hf_subset": "default"}


def _languages(eval_set: EvalSet) -> dict[str, JsonValue]:
    known = [one for one in languages_of(eval_set.contents) if one in _LANGUAGES]
    return {"languages": [f"{_LANGUAGES[one]}-{_SCRIPTS.get(script_of(one), 'Zyyy')}" for one in known]}


def _file_name(name: str) -> str:
    """A system's name as a folder's, with MTEB's `__` for a slash."""
    plain = name.strip("/").replace("/", "__")
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in plain).lstrip(".") or "system"


def _write(path: Path, value: Mapping[str, JsonValue]) -> None:
    with atomic_file(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
