"""From a model's name to a warm service."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedfit.errors import UsageError
from embedfit.files.hashes import sha256_file
from embedfit.models.architecture import Architecture, read_architecture, read_json, weight_files
from embedfit.models.graphs import content_key
from embedfit.models.layout.prompts import open_model
from embedfit.models.tokenizer import cached_tokenizer
from embedfit.numerics.machine import cores
from embedfit.runtime import cache_folder
from embedfit.serving.edge.access import Keys
from embedfit.serving.engines.choice import EngineChoice, QualityGate, candidates, choose
from embedfit.serving.engines.engine import Engine
from embedfit.serving.engines.tokens import TextEncoder
from embedfit.serving.engines.warmup import calibrate
from embedfit.serving.scheduling.admission import GateResult, compare, content_of, evaluation_of, remembered, trial_of
from embedfit.serving.scheduling.batcher import QUEUE_SECONDS, Batcher, Capacity
from embedfit.serving.service import Service
from embedfit.serving.settings import ServeSettings

if TYPE_CHECKING:
    from embedfit.index.search import Index


def load_service(model: str, settings: ServeSettings, *, log: Callable[[str], None]) -> Service:
    """Read the model, choose and warm its engine. Takes seconds; raises EmbedfitError."""
    folder, layout = open_model(model)
    prompts = {"query": "", "document": layout.document_instruction, **layout.prompts}
    threads = cores()
    tokenizer = cached_tokenizer(folder, layout, cache_folder() / "tokenizers" / f"{content_key(folder)}.json")
    encoder = TextEncoder(
        tokenizer.tokenizer,
        max_tokens=layout.max_tokens,
        prompts=prompts,
        default_prompt=_default_prompt(settings, prompts, layout),
        special=None if layout.pooling.include_prompt else tokenizer.special,
        executor=ThreadPoolExecutor(settings.tokenization_workers or threads, thread_name_prefix="tokenizer"),
    )
    evaluation = evaluation_of(model, settings.gate_beir)
    if settings.precision == "int8" and evaluation is None:
        raise UsageError(
            "int8 is served only where queries show that it finds as much as fp32.",
            remedy="Add --gate-beir with a BEIR folder or a run folder; or use --precision auto.",
        )
    tried = candidates(
        folder,
        layout,
        engine=settings.engine,
        precision=settings.precision,
        threads=threads,
        gated=evaluation is not None,
    )
    choice = choose(
        tried,
        max_tokens=layout.max_tokens,
        precision=settings.precision,
        gate=None if evaluation is None else _gate(folder, evaluation, encoder, log),
        log=log,
    )
    for label, rate in choice.rates.items():
        if rate:
            log(f"{label}: {rate:,.0f} tokens/s{' (chosen)' if label == choice.label else ''}")
    capacity = calibrate(choice.engine, max_tokens=layout.max_tokens, max_batch_tokens=settings.max_batch_tokens)
    log(
        f"{choice.label}: {capacity.tokens_per_second:,.0f} tokens/s in batches of {capacity.budget:,} tokens; "
        f"another batch costs as much as {capacity.overhead} tokens"
    )
    batcher = Batcher(
        engine=choice.engine,
        pad_id=_pad_id(folder),
        capacity=capacity,
        max_rows=settings.max_batch_requests or settings.max_batch_tokens,
        max_queue_tokens=settings.max_queue_tokens,
        max_queue_seconds=settings.max_queue_seconds or QUEUE_SECONDS,
        # A request that is larger than the queue still gets in while nothing waits.
        least_queue_tokens=0 if settings.max_queue_seconds else settings.max_client_batch_size * layout.max_tokens,
    )
    name = settings.served_model_name or model
    return Service(
        encoder=encoder,
        batcher=batcher,
        hidden_size=layout.width,
        model_name=name,
        device="cpu" if choice.engine.device == "cpu" else "gpu",
        auto_truncate=settings.auto_truncate,
        info=_info(model, folder, name, layout, encoder, choice, capacity, settings, batcher.queue_limit),
    )


def load_with_index(
    opened: Callable[[], Index], settings: ServeSettings, keys: Keys, *, log: Callable[[str], None]
) -> Service:
    """The service of an index' model, with the index. opened: opens the index, and may build it first.

    Raises InputError where the filter of a key does not fit the index.
    """
    from embedfit.serving.searching import Searcher  # loads torch, which a model alone does not need

    index = opened()
    name = index.stored.model.name
    if name.startswith("."):  # beside the index
        name = os.path.normpath(index.stored.folder / name)
    service = load_service(name, settings, log=log)
    searcher = Searcher(index=index, max_queue_seconds=settings.max_queue_seconds or QUEUE_SECONDS)
    log(f"search: {len(index):,} passages of {index.stored.folder}")
    if index.exact_because:
        log(index.exact_because)
    for _, caller in keys.callers:
        if caller.forced is not None:
            log(f"search: the key {caller.name!r} finds {searcher.scope(caller).size:,} of them ({caller.forced})")
    searcher.warm_up()
    about = {"passages": len(index), "retriever": index.retriever.as_json(), "base": index.base_name}
    about |= {} if index.recall is None else {"recall": index.recall}
    return replace(service, searcher=searcher, info=service.info | {"index": about})


def _gate(folder: Path, evaluation: Path, encoder: TextEncoder, log: Callable[[str], None]) -> QualityGate:
    """Measures once for each content of model and queries, and remembers."""

    def rows_of(texts: Sequence[str], is_query: bool) -> list[list[int]]:
        return encoder.encode(texts, prompt=encoder.prompts["query" if is_query else "document"])

    def measure(exact: Engine, fast: Engine, label: str) -> GateResult:
        log(f"measuring {label} on {evaluation}")
        return compare(exact, fast, trial_of(evaluation, rows_of), _pad_id(folder))

    def gate(exact: Engine, fast: Engine, label: str) -> GateResult:
        name = f"{content_key(folder)}-{content_of(evaluation)}-{fast.name}-{fast.precision}.json"
        return remembered(cache_folder() / "gates" / name, partial(measure, exact, fast, label))

    return gate


def _default_prompt(settings: ServeSettings, prompts: dict[str, str], layout: Architecture) -> str:
    """The settings' prompt, or the one that the folder itself puts before texts whose role nobody named."""
    if settings.default_prompt is not None:
        return settings.default_prompt
    if settings.default_prompt_name is None:
        return layout.default_instruction
    if settings.default_prompt_name not in prompts:
        raise UsageError(
            f"--default-prompt-name {settings.default_prompt_name!r} is not a prompt of this model.",
            remedy=f"It has: {', '.join(sorted(prompts)) or 'none'}. Or give the text with --default-prompt.",
        )
    return prompts[settings.default_prompt_name]


def _pad_id(folder: Path) -> int:
    where = folder / read_architecture(folder).first.path / "config.json"
    value = read_json(where, optional=True).get("pad_token_id")
    return value if isinstance(value, int) and value >= 0 else 0


def _tei_pooling(layout: Architecture) -> str:
    """Under TEI's name, where it has one."""
    return {"lasttoken": "last_token"}.get(layout.pooling.name, layout.pooling.name)


def _info(
    model: str,
    folder: Path,
    name: str,
    layout: Architecture,
    encoder: TextEncoder,
    choice: EngineChoice,
    capacity: Capacity,
    settings: ServeSettings,
    queue_tokens: int,
) -> dict[str, Any]:
    """TEI's fields first, then what TEI does not say."""
    return {
        "model_id": model,
        "model_sha": sha256_file(weight_files(folder / layout.first.path)[0]),
        "model_dtype": {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(
            choice.engine.precision, choice.engine.precision
        ),
        "served_model_name": name,
        "model_type": {"embedding": {"pooling": _tei_pooling(layout)}},
        "max_concurrent_requests": settings.max_concurrent_requests,
        "max_input_length": layout.max_tokens,
        "max_batch_tokens": settings.max_batch_tokens,
        "max_batch_requests": settings.max_batch_requests,
        "max_client_batch_size": settings.max_client_batch_size,
        "auto_truncate": settings.auto_truncate,
        "tokenization_workers": settings.tokenization_workers or cores(),
        "version": importlib.metadata.version("embedfit"),
        "sha": None,
        "docker_label": None,
        "hidden_size": layout.width,
        "modules": layout.describe(),
        "normalize": layout.normalize,
        "prompts": encoder.prompts,
        "default_prompt": encoder.default_prompt,
        "max_queue_tokens": queue_tokens,
        "payload_limit": settings.payload_limit,
        "engine": {
            "name": choice.engine.name,
            "precision": choice.engine.precision,
            "device": choice.engine.device,
            "streams": choice.engine.streams,
            "tokens_per_second": round(capacity.tokens_per_second),
            "batch_budget": capacity.budget,
            "quality_gate": choice.verdict and choice.verdict.as_json(),
            "tried": {label: rate and round(rate) for label, rate in choice.rates.items()},
        },
    }
