"""The stage: train.jsonl → finetuned/."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import JsonValue

from embedfit.config import Config, TrainConfig
from embedfit.errors import TrainingError
from embedfit.files.flagembedding import read_flagembedding
from embedfit.files.hashes import sha256_file
from embedfit.models import query_map
from embedfit.models.encoder import Encoder
from embedfit.models.layout.adapters import rank_for
from embedfit.models.layout.files import ADAPTER
from embedfit.models.layout.golden import prove_changed, write_golden
from embedfit.models.layout.prompts import open_model
from embedfit.models.layout.towers import plain_tower, save_mapped, save_towers
from embedfit.models.query_map import MapCard, QueryMap
from embedfit.numerics.arrays import Floats
from embedfit.numerics.machine import Precision, best_precision, cores, device
from embedfit.path.artefacts import DevScores, Passage, Query, TrainingLog, TrainingStep, TrainRow, written
from embedfit.path.workspace import Workspace, encode_record, encode_whole
from embedfit.progress import Reporter, Silent
from embedfit.runtime import Runtime
from embedfit.teaching.coverage import covered_log, log_teaches
from embedfit.teaching.own_sentences import FEWEST, own_sentences
from embedfit.teaching.query_map import MapSettings, fit
from embedfit.training.batches import Composer, Composes
from embedfit.training.dev import MOST, MOST_FOR_THE_RECORD, DevSet, dev_set, encode_store
from embedfit.training.loop import Schedule, Trainer, TrainingOutcome, TrainingPlan
from embedfit.training.losses.loss import loss_named
from embedfit.training.losses.objective import Objective
from embedfit.training.masking import known_positives, near_duplicates
from embedfit.training.memory import MemoryBudget, graph_budget, keep_heap
from embedfit.training.optimise import automatic_epochs, learning_rate_for
from embedfit.training.processes.launch import launch
from embedfit.training.processes.world import World
from embedfit.training.store import TrainingData, doubts, tokenise_rows
from embedfit.training.teachers.corpus import CorpusComposer, CorpusTeacher, corpus_teacher, times_of
from embedfit.training.teachers.teacher import TeacherWeights, fused_teacher
from embedfit.training.trunk import Trunk, check_trainable

_LONGEST = 512
#: A training has this many parts. A checkpoint ends each and, if dev scores choose the weights, a dev score.
_PARTS = 5
#: Makes the random stream of the dev sample, beside the seed: another than those of the training loop.
_DEV_SAMPLE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """The model and the data of a training. settings: all decided; chosen: as the user has them.

    encoder: the tower that trains, without its transformer, which is the trunk; trunk: None if only a map is learned.
    corpus: the teacher of the query map and of a loss over the whole corpus; None with a loss that has no teacher.
    """

    encoder: Encoder
    trunk: Trunk | None
    data: TrainingData
    dev: DevSet | None
    settings: TrainConfig
    chosen: TrainConfig
    corpus: CorpusTeacher | None = None


def run(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Fine-tune the base model on train.jsonl and save the best weights by dev as finetuned/."""
    if (runtime.processes > 1 or runtime.nodes) and config.training.tuned != "map":
        loss = loss_named(config.training.loss)
        if loss.teaches_map:  # the teachers' vectors and scores are stored, and each process finds them
            asked, covered = _asked(workspace, config.training, Silent())
            data = _training_data(workspace, trained_tower(config), config, asked, Silent())
            corpus_teacher(workspace, config, data, covered, runtime)
        if loss.soft_labels:
            # The vectors of tokens are not stored, so each process computes them itself.
            fused_teacher(data.texts, config.model, TeacherWeights(windows=1, tokens=0, words=0), runtime)
        launch(workspace, config, runtime)
    else:
        train(workspace, config, runtime, World())


def train(workspace: Workspace, config: Config, runtime: Runtime, world: World) -> None:
    """Train in one of the processes. Only the leading one writes files."""
    with process_settings(world):
        material = gathered(workspace, config, runtime)
        if material.corpus is None and world.leads:
            workspace.remove(query_map.FILE)  # of an earlier run with another loss
        if material.corpus is not None and world.leads:
            _save_map(workspace, config, material, runtime.report)
        if config.training.tuned != "map":
            trainer = trainer_of(material, workspace, config, runtime, world)
            outcome = trainer.run(workspace.scratch("train"))
            if world.leads:
                _save(workspace, config, material, outcome, runtime.report)
        world.barrier()


def gathered(workspace: Workspace, config: Config, runtime: Runtime) -> Material:
    """The base, the rows of train.jsonl, the questions that people asked, and the dev queries of a run folder."""
    settings, loss = config.training, loss_named(config.training.loss)
    precision = best_precision() if settings.precision == "auto" else settings.precision
    encoder = trained_tower(config, precision)
    # A map needs no transformer with gradients, so it fits models that can't be trained here.
    size = sum(weight.numel() for weight in encoder.backbone.parameters())
    rank = rank_for(settings.lora.rank, size)
    if rank:
        torch.manual_seed(config.seed)  # an adapter begins at random, alike in every process
    trunk = None if settings.tuned == "map" else Trunk(encoder, compiled=settings.compile, rank=rank)
    if trunk is not None and rank:
        trained = sum(weight.numel() for weight in trunk.parameters().values())
        runtime.report.log(f"train: an adapter (LoRA) of rank {rank}: {trained:,} weights train beside {size:,}")
    asked, covered = _asked(workspace, settings, runtime.report)
    data = _training_data(workspace, encoder, config, asked, runtime.report)
    corpus = corpus_teacher(workspace, config, data, covered, runtime) if loss.teaches_map else None
    decided = {
        "epochs": settings.epochs or automatic_epochs(len(data.examples), settings.batch_size, loss.steps, loss.epochs),
        "learning_rate": settings.learning_rate or learning_rate_for(size, adapter=rank > 0),
        "hard_negatives": min(settings.hard_negatives, max(len(example.negatives) for example in data.examples)),
        "tokens_per_micro_batch": settings.tokens_per_micro_batch or _micro_tokens(encoder),
    }
    return Material(
        encoder=encoder,
        trunk=trunk,
        data=data,
        dev=_dev_set(workspace, encoder, config, corpus if loss.corpus else None, runtime),
        corpus=corpus,
        settings=settings.model_copy(update=decided),
        chosen=settings,
    )


def trained_tower(config: Config, precision: Precision | Literal["auto"] = "auto") -> Encoder:
    """The base model's tower of queries from its plain folder; of a model of one tower the model itself.

    Raises TrainingError for a model that can't be trained.
    """
    folder, layout = open_model(config.model, config.query_instruction)
    check_trainable(layout, config.model, config.training)
    plain, own = plain_tower(folder, layout, is_query=True)
    return Encoder.load(plain, layout=own, precision=precision)


def _asked(workspace: Workspace, settings: TrainConfig, report: Reporter) -> tuple[list[str], float | None]:
    """The questions that people asked and that train, and the share of them that passages cover; ([], None) if none."""
    queries = workspace.read(Query)
    asked = [query.text for query in queries if query.split == "log" and query.kept]
    if asked and not loss_named(settings.loss).corpus:
        report.log(
            f"train: {len(asked):,} questions that people asked don't train, for train.loss={settings.loss} needs a "
            "passage for each; train.loss=corpus-distil learns from them"
        )
        return [], None
    covered = covered_log(workspace.read(Passage), queries) if asked else None
    if covered is None:
        return [], None
    if not log_teaches(covered, settings.label_share):
        report.log(
            f"train: {len(asked):,} questions that people asked don't train: a passage has {covered:.0%} of a "
            "question's words, on average, so a teacher that counts words misleads, and the queries whose passage is "
            "known teach more"
        )
        return [], None
    report.log(f"train: {len(asked):,} questions that people asked train too; nobody said what answers them")
    return asked, covered


def _stand_ins(workspace: Workspace, rows: Sequence[TrainRow], seed: int, report: Reporter) -> list[TrainRow]:
    """Rows whose queries are sentences of the passages that no row teaches, the evaluation's passages left out.

    None if there are too few rows.
    """
    if len(rows) < FEWEST:
        return []
    contents = [passage.content for passage in workspace.read(Passage) if passage.split != "test"]
    found = own_sentences(contents, [text for row in rows for text in row.pos], queries=len(rows), seed=seed)
    if found:
        lending = len({content for _, content in found})
        report.log(
            f"train: {lending:,} passages have no query that trains, so {len(found):,} of their own sentences train in "
            "the queries' place"
        )
    return [TrainRow(query=sentence, pos=(content,), neg=()) for sentence, content in found]


def _training_data(
    workspace: Workspace, encoder: Encoder, config: Config, asked: Sequence[str], report: Reporter
) -> TrainingData:
    path, settings = workspace.existing("train.jsonl"), config.training
    rows = read_flagembedding(path)
    rows += [TrainRow(query=text, pos=(), neg=()) for text in asked]
    given = len(rows)
    if loss_named(settings.loss).corpus and settings.label_share and not asked:
        rows += _stand_ins(workspace, rows, config.seed, report)
    limits = {True: settings.query_max_tokens, False: settings.passage_max_tokens or _LONGEST}

    def tokenise(texts: Sequence[str], is_query: bool) -> list[list[int]]:
        # Queries carry their row's instruction, so the encoder must not add another.
        return encoder.token_ids(texts, is_query=None if is_query else False, max_tokens=limits[is_query])

    special = encoder.tokenizer.num_special_tokens_to_add(False)
    data = tokenise_rows(rows, tokenise, instruction=encoder.layout.query_instruction, special_tokens=special)
    if data.empty_texts:
        lost = f" and with them the rows {_listed(data.dropped_rows)}" if data.dropped_rows else ""
        report.log(f"train: {data.empty_texts} texts without a token are left out{lost}")
    usable = [example for example in data.examples if example.row < given]
    if len(usable) < 2:
        raise TrainingError(
            f"{path} holds {len(usable)} usable rows; a row learns from the others, so two are the least.",
            remedy=f"Generate more queries: embedfit generate --run {workspace.root} --force",
        )
    loss = loss_named(settings.loss)
    if loss.needs_scores and not any(example.positive_scores for example in usable):
        raise TrainingError(
            f"train.loss is {settings.loss}, but the rows of {path} have no scores to learn from.",
            remedy="Add pos_scores and neg_scores to the rows, or use --set train.loss=infonce",
        )
    nothing, warnings = doubts(usable, contrasts=not loss.corpus, scored=loss.needs_scores)
    if nothing:
        raise TrainingError(
            f"{path} teaches nothing: {nothing}.",
            remedy=f"Give more documents, or other queries: embedfit generate --run {workspace.root} --force",
        )
    for warning in warnings:
        report.log(f"train: Warning: {warning}")
    report.log(_describe(data, limits, encoder.layout.max_tokens))
    return data


def _listed(rows: Sequence[int]) -> str:
    return ", ".join(str(row + 1) for row in rows[:10]) + (" …" if len(rows) > 10 else "")


def _describe(data: TrainingData, limits: dict[bool, int], window: int) -> str:
    lengths = data.store.lengths
    parts = []
    for kind, name in ((True, "queries"), (False, "passages")):
        own = lengths[data.queries == kind]
        cut = int((own >= min(limits[kind], window)).sum())
        parts.append(
            f"{len(own):,} distinct {name} of {own.mean() if len(own) else 0:.0f} tokens"
            + (f" ({cut:,} fill or exceed the limit of {min(limits[kind], window)})" if cut else "")
        )
    return f"train: {len(data.examples):,} rows, {', '.join(parts)}"


def _dev_set(
    workspace: Workspace, encoder: Encoder, config: Config, corpus: CorpusTeacher | None, runtime: Runtime
) -> DevSet | None:
    chooses = config.training.keep == "best" or config.training.eval_every > 0

    def embed(texts: Sequence[str]) -> Floats:
        assert corpus is not None
        try:
            return runtime.vectors.embed(corpus.base, texts, is_query=False, report=runtime.report)
        finally:
            corpus.base.release()

    def tokenise(texts: Sequence[str], is_query: bool) -> list[list[int]]:
        return encoder.token_ids(texts, is_query=is_query, max_tokens=_LONGEST)

    return dev_set(
        workspace.read(Passage),
        written(workspace.read(Query)),
        tokenise,
        np.random.default_rng([config.seed, _DEV_SAMPLE]),
        None if corpus is None else embed,
        most=MOST if chooses else MOST_FOR_THE_RECORD,
    )


def trainer_of(material: Material, workspace: Workspace, config: Config, runtime: Runtime, world: World) -> Trainer:
    """The trainer of the material, before its first step."""
    trunk, settings = material.trunk, material.settings
    assert trunk is not None  # a map has no trainer
    composer: Composes
    if material.corpus is not None and loss_named(settings.loss).corpus:
        composer = CorpusComposer(examples=material.data.examples, teacher=material.corpus)
    else:
        composer = _composer(material, trunk, config.model, runtime, world)
    schedule = Schedule(composer, settings, config.seed)
    part = max(1, -(-schedule.total // _PARTS))
    # If dev scores don't choose the weights, only the base's and the last one are of interest.
    eval_every = settings.eval_every or (schedule.total if settings.keep == "last" else part)
    checkpoint_every = settings.checkpoint_every or min(eval_every, part)
    plan = TrainingPlan(
        settings=settings.model_copy(update={"eval_every": eval_every, "checkpoint_every": checkpoint_every}),
        objective=_objective(settings, trunk.width),
        seed=config.seed,
        gradient_scale=256.0 if material.encoder.precision == "fp16" else 1.0,
        must_equal=_must_equal(workspace, config, material),
    )
    trained = sum(weight.numel() for weight in trunk.parameters().values())
    limit = graph_budget(settings.memory_mb, trained, trunk.device) // world.local
    return Trainer(
        trunk,
        material.data.store,
        schedule,
        plan,
        dev=material.dev,
        memory=MemoryBudget(limit, trunk.weights()),
        runtime=runtime,
        world=world,
    )


def _composer(material: Material, trunk: Trunk, model: str, runtime: Runtime, world: World) -> Composer:
    settings, data, guide, teacher = material.settings, material.data, None, None
    if settings.guide_margin:
        guide = encode_store(trunk, data.store, settings.tokens_per_micro_batch, world)
    if loss_named(settings.loss).soft_labels:
        teacher = fused_teacher(data.texts, model, TeacherWeights(*settings.teacher_weights), runtime)
    return Composer(
        examples=data.examples,
        known=known_positives(data.examples, near_duplicates(data.store, np.flatnonzero(~data.queries).tolist())),
        hard_negatives=settings.hard_negatives,
        in_batch=settings.in_batch_negatives,
        guide=guide,
        margin=settings.guide_margin,
        teacher=teacher,
    )


def _micro_tokens(encoder: Encoder) -> int:
    """Padded tokens that are encoded together: enough to fill the machine, few enough for its caches."""
    if device().type == "cuda":
        return 65_536
    return 4096 if encoder.precision == "fp32" else 8192


def _objective(settings: TrainConfig, width: int) -> Objective:
    sizes = tuple(sorted({*settings.matryoshka, width}, reverse=True)) if settings.matryoshka else ()
    return Objective(
        loss=loss_named(settings.loss),
        temperature=settings.temperature,
        both_directions=settings.both_directions,
        infonce_weight=settings.infonce_weight,
        teacher_temperature=settings.teacher_temperature,
        dimensions=sizes,
    )


def _must_equal(workspace: Workspace, config: Config, material: Material) -> Mapping[str, object]:
    """The settings and files that a checkpoint must agree in for training to resume. Memory may differ."""
    settings = config.training.model_dump(mode="json", exclude={"memory_mb", "compile"})
    return {
        **{f"train.{key}": value for key, value in settings.items()},
        "model": config.model,
        "instruction": material.encoder.layout.query_instruction,
        "seed": config.seed,
        "precision": material.encoder.precision,
        "micro-batch": material.settings.tokens_per_micro_batch,
        "train.jsonl": sha256_file(workspace.existing("train.jsonl")),
        "passages.jsonl": sha256_file(workspace.existing("passages.jsonl")),
        "queries.jsonl": sha256_file(workspace.existing("queries.jsonl")),
    }


def _save_map(workspace: Workspace, config: Config, material: Material, report: Reporter) -> None:
    """Learn the query map and write it; with tune=map write finetuned/ with it as the tower of queries."""
    corpus, settings, began = material.corpus, material.settings, time.monotonic()
    assert corpus is not None
    times = times_of(material.data.examples, corpus.covered)
    if (most := int(times.max())) > 1:
        report.log(f"train: the map sees each question that people asked {most} times as often as a written query")
    learned = fit(
        corpus.queries,
        corpus.passages,
        corpus.scores,
        MapSettings(
            steps=settings.map_steps,
            batch=settings.batch_size,
            learning_rate=settings.map_learning_rate,
            temperature=settings.temperature,
            teacher_temperature=corpus.temperature,
            label_share=corpus.share,
            prior=settings.map_prior if corpus.covered is None else 0.0,
            seed=config.seed,
        ),
        labels=corpus.labels,
        times=times,
        report=report,
    )
    seconds = time.monotonic() - began
    made: dict[str, JsonValue] = {"queries": len(corpus.queries), "passages": len(corpus.passages)}
    made |= {"seconds": round(seconds, 3)}
    if corpus.covered is not None:
        made["covered"] = round(corpus.covered, 6)
    card = MapCard(embedder=config.model, made=made)
    QueryMap(learned.matrix, card).save(workspace.path(query_map.FILE))
    report.log(f"train: a query map, learned from {len(corpus.queries):,} queries in {seconds:.0f} s")
    if config.training.tuned == "map":
        log = _log(material, TrainingLog(steps=settings.map_steps, seconds=round(seconds, 3)))
        base, prompt = corpus.base, material.encoder.layout.query_instruction
        with workspace.writing_folder("finetuned") as folder:
            save_mapped(folder, learned.matrix, base=base.folder, layout=base.layout, instruction=prompt)
            prove_changed(folder, *open_model(config.model, config.query_instruction))
            _save_log(folder, log, [])


def _save(workspace: Workspace, config: Config, material: Material, outcome: TrainingOutcome, report: Reporter) -> None:
    state = outcome.state
    seconds, tokens = sum(record.seconds for record in state.losses), sum(record.tokens for record in state.losses)
    log = TrainingLog(
        steps=state.step,
        best_step=outcome.best_step,
        stopped_early=state.stopped,
        dev_ndcg10=DevScores(base=outcome.base_dev, after=outcome.trained_dev),
        seconds=round(seconds, 3),
        tokens=tokens,
        tokens_per_second=round(tokens / seconds, 1) if seconds else None,
        padding_share=round(outcome.padded, 4),
        retained_share=round(outcome.retained, 4),
    )
    base, layout, trunk = material.encoder.folder, material.encoder.layout, material.trunk
    assert trunk is not None  # a map is saved by _save_map
    with workspace.writing_folder("finetuned") as folder, tempfile.TemporaryDirectory() as scratch:
        tuned = folder if config.training.tuned == "both" else Path(scratch) / "query"
        trunk.save(tuned, outcome.tensors, base=base, layout=layout)
        if tuned == folder:
            write_golden(folder)
        else:
            passages, own = plain_tower(*open_model(config.model), is_query=False)
            save_towers(folder, query=tuned, document=passages, layout=own)
        if trunk.adapter is not None:
            trunk.adapter.save(folder / ADAPTER, alpha=1.0)
        prove_changed(folder, *open_model(config.model, config.query_instruction))
        _save_log(folder, _log(material, log), state.losses)
    best = next((score.ndcg10 for score in outcome.trained_dev if score.step == outcome.best_step), None)
    gain = "" if best is None or outcome.base_dev is None else f", dev nDCG@10 {outcome.base_dev:.4f} → {best:.4f}"
    report.log(f"train: kept the weights of step {outcome.best_step} of {state.step}{gain}")


def _log(material: Material, log: TrainingLog) -> TrainingLog:
    """The log with what the data and the machine say."""
    data = material.data
    return log.model_copy(
        update={
            "rows": len(data.examples),
            "dropped_rows": tuple(row + 1 for row in data.dropped_rows),
            "empty_texts": data.empty_texts,
            "peak_memory_mb": _peak_memory_mb(),
            "precision": material.encoder.precision,
            "device": str(device()),
            "threads": torch.get_num_threads(),
            "config": material.chosen.model_dump(mode="json"),
        }
    )


def _save_log(folder: Path, log: TrainingLog, losses: Sequence[TrainingStep]) -> None:
    (folder / "losses.jsonl").write_text("".join(encode_record(one) + "\n" for one in losses), "utf-8")
    (folder / "training.json").write_text(encode_whole(log), "utf-8")


def _peak_memory_mb() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated() >> 20)
    if sys.platform == "win32":
        return 0
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> 20 if sys.platform == "darwin" else peak >> 10


@contextmanager
def process_settings(world: World) -> Iterator[None]:
    """Threads and heap for training; threads and the global random state are put back."""
    threads = torch.get_num_threads()
    keep_heap()
    torch.set_num_threads(max(1, cores() // world.local))
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
            yield
    finally:
        torch.set_num_threads(threads)
