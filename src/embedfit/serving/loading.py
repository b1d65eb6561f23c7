"""Loading a model by its name into a warm service."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedfit.errors import EmbedfitError, ModelError, UsageError
from embedfit.files.hashes import sha256_file
from embedfit.index.store.manifest import AGAIN
from embedfit.models.architecture import DOCUMENT, QUERY, Architecture
from embedfit.models.graphs.cache import content_key
from embedfit.models.graphs.encoder import GraphKind
from embedfit.models.layout.files import ADAPTER, pad_id, weight_files
from embedfit.models.layout.golden import NAME as GOLDEN
from embedfit.models.layout.golden import prove
from embedfit.models.layout.modules import Head
from embedfit.models.layout.prompts import open_model
from embedfit.models.layout.reading import read_architecture
from embedfit.models.layout.towers import tower_folder
from embedfit.models.sources import resolve_model
from embedfit.models.tokenizer import cached_tokenizer
from embedfit.numerics.arrays import Vectors
from embedfit.numerics.machine import cores
from embedfit.runtime import cache_folder
from embedfit.serving.edge.access import Keys
from embedfit.serving.engines.choice import EngineChoice, QualityGate, candidates, choose
from embedfit.serving.engines.engine import Engine, batch_of
from embedfit.serving.engines.known import known_choice, place_of
from embedfit.serving.engines.tokens import TextEncoder
from embedfit.serving.engines.warmup import calibrate
from embedfit.serving.scheduling.admission import GateResult, compare, content_of, evaluation_of, remembered, trial_of
from embedfit.serving.scheduling.batcher import QUEUE_SECONDS, Batcher, Capacity
from embedfit.serving.service import Service
from embedfit.serving.settings import ServeSettings

if TYPE_CHECKING:
    from embedfit.index.search import Index
    from embedfit.models.cross_encoder import CrossEncoder
    from embedfit.serving.search.query_log import QueryLog

Log = Callable[[str], None]
_GRAPHS: Mapping[str, GraphKind] = {"onnx": "onnx", "openvino": "openvino"}
_TEIS_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "lasttoken": "last_token"}


def load_service(model: str, settings: ServeSettings, *, log: Log) -> Service:
    """Read the model, choose and warm its engine, or one for each tower. Takes seconds; raises EmbedfitError."""
    folder, layout = open_model(model)
    named = settings.adapter_folders
    if named:
        _check_adaptable(model, layout)
        settings = settings.model_copy(update={"engine": "torch"})
    service = _whole(model, folder, layout, settings, log)
    try:
        service = _with_adapters(service, named, settings, log) if named else service
        _prove(service, folder, layout)
    except EmbedfitError:
        service.close()
        raise
    return service


def _prove(service: Service, folder: Path, layout: Architecture) -> None:
    prove(folder, layout, partial(_encoded, service), exact=service.batcher.engine.precision == "fp32")


def _check_adaptable(model: str, layout: Architecture) -> None:
    if layout.queries is not None:
        raise UsageError(
            f"{model} has two towers; --adapter puts adapters over a model that has one.",
            remedy="Serve the merged folder of each adapter by itself.",
        )


def _with_adapters(service: Service, named: Mapping[str, str], settings: ServeSettings, log: Log) -> Service:
    """The service of a base, and one for each adapter, over the base's own transformer.

    Each adapter's folder proves by its golden vectors that base and adapter together give the model that was trained.
    """
    from embedfit.models.layout.adapters import Adapters  # torch
    from embedfit.serving.engines.adapted_engine import AdaptedEngine
    from embedfit.serving.engines.torch_engine import TorchEngine

    engine = service.batcher.engine
    assert isinstance(engine, TorchEngine)  # as --engine torch asks
    adapters = Adapters(engine.backbone)
    found: dict[str, Service] = {}
    for name, given in named.items():
        folder = _adapted_folder(name, given)
        layout = read_architecture(folder)
        _check_adaptable(given, layout)
        adapter = adapters.add(folder / ADAPTER)
        adapted = AdaptedEngine(engine, adapters, adapter, Head.load(folder, layout))
        found[name] = replace(
            service,
            encoder=_encoder(folder, layout, settings),
            batcher=service.batcher.over(adapted),
            model_name=name,
        )
        _prove(found[name], folder, layout)
        log(f"--adapter {name}: {folder}")
    base = service.batcher.over(AdaptedEngine(engine, adapters, None))
    service.batcher.close()
    return replace(service, batcher=base, adapters=found, info=service.info | {"adapters": list(found)})


def _adapted_folder(name: str, given: str) -> Path:
    """The model folder, or that of a run, whose adapter is to be served. Raises ModelError if it has none."""
    folder = Path(given).expanduser()
    if (folder / "embedfit.toml").exists() and (folder / "merged").is_dir():
        folder = folder / "merged"
    if not (folder / ADAPTER).is_dir() or not (folder / GOLDEN).exists():
        raise ModelError(
            f"--adapter {name}={given}: {folder} is no model that embedfit trained by an adapter.",
            remedy="Name a run or its merged folder. It has an adapter with: embedfit run … --set train.lora.rank=16",
        )
    return folder


def _encoded(service: Service, texts: list[str], is_query: bool) -> Vectors:
    """Vectors of texts by the engine of their tower, before the server takes requests."""
    role = QUERY if is_query else DOCUMENT
    tower = service.tower(role)
    rows = tower.encoder.encode(texts, prompt=tower.encoder.prompts[role])
    vectors = np.concatenate([tower.batcher.engine.pooled(batch_of([row], tower.batcher.pad_id), 0) for row in rows])
    return vectors if tower.after is None else tower.after.finish_arrays(vectors)


def _whole(model: str, folder: Path, layout: Architecture, settings: ServeSettings, log: Log) -> Service:
    if layout.queries is None:
        return _load(model, _Served(folder=folder, layout=layout), settings, log)
    passages, after = _tower(folder, layout, is_query=False), _map_of(folder, layout)
    if after is not None:
        service = _load(model, replace(passages, after=after), settings, log)
        queries = replace(service, after=after)
    elif settings.precision == "int8":
        raise UsageError(
            "int8 is not served for a model of two transformers: its quality is measured with one for both.",
            remedy="Use --precision auto.",
        )
    else:
        log("The tower of passages:")
        service = _load(model, passages, settings, log)
        log("The tower of queries:")
        chosen = service.batcher.engine
        same = settings.model_copy(update={"engine": chosen.name, "precision": chosen.precision})
        queries = _load(model, _tower(folder, layout, is_query=True), same, log)
    about = {"modules": layout.describe(), "queries": {"prompt_name": QUERY, "shares_the_engine": after is not None}}
    return replace(service, queries=queries, info=service.info | about)


@dataclass(frozen=True, kw_only=True)
class _Served:
    """A plain model folder that is served, and its architecture.

    whole: the folder of both towers, for a tower. after: the map that vectors of queries go through after the engine.
    """

    folder: Path
    layout: Architecture
    whole: Path | None = None
    after: Head | None = None


def _tower(folder: Path, layout: Architecture, *, is_query: bool) -> _Served:
    """A tower with the right prompts of the whole model."""
    plain = tower_folder(folder, is_query=is_query)
    own = replace(read_architecture(plain), prompts=layout.prompts, default_prompt=layout.default_prompt)
    return _Served(folder=plain, layout=own, whole=folder)


def _map_of(folder: Path, layout: Architecture) -> Head | None:
    """The modules that queries go through after those of passages; None if the towers differ in more than that."""
    queries, own = layout.tower(is_query=True), layout.modules
    if not layout.has_map or layout.dimensions is not None:
        return None
    return Head.load(folder, replace(queries, modules=queries.modules[len(own) :]))


def _load(model: str, served: _Served, settings: ServeSettings, log: Log) -> Service:
    folder, layout = served.folder, served.layout
    encoder = _encoder(folder, layout, settings)
    choice, capacity = _choice(model, served, settings, encoder, log)
    log(
        f"{choice.label}: {capacity.tokens_per_second:,.0f} tokens/s in batches of {capacity.budget:,} tokens; "
        f"another batch costs as much as {capacity.overhead} tokens"
    )
    batcher = Batcher(
        engine=choice.engine,
        pad_id=pad_id(folder, layout),
        capacity=capacity,
        max_rows=settings.max_batch_requests or settings.max_batch_tokens,
        max_queue_tokens=settings.max_queue_tokens,
        max_queue_seconds=settings.max_queue_seconds or QUEUE_SECONDS,
        # A request that is larger than the queue is still accepted while nothing waits.
        least_queue_tokens=0 if settings.max_queue_seconds else settings.max_client_batch_size * layout.max_tokens,
    )
    name = settings.served_model_name or model
    about = {"model_id": model, "model_sha": sha256_file(weight_files(folder / layout.first.path)[0])}
    return Service(
        encoder=encoder,
        batcher=batcher,
        hidden_size=layout.width,
        model_name=name,
        device="cpu" if choice.engine.device == "cpu" else "gpu",
        auto_truncate=settings.auto_truncate,
        info=about | {"served_model_name": name} | _info(layout, encoder, choice, batcher, settings),
    )


def load_with_index(
    opened: Callable[[], Index], settings: ServeSettings, keys: Keys, *, log: Log, query_log: QueryLog | None = None
) -> Service:
    """The service of an index and its model. opened: opens the index, and may build it first.

    query_log: gets the queries that are answered. Raises InputError if the filter of a key does not fit the index.
    """
    reranker = None if settings.reranker is None else _reranker(settings.reranker)
    from embedfit.serving.search.searcher import Searcher  # a model alone needs nothing of an index

    index = opened()
    name = index.stored.model.name
    if name.startswith("."):  # a path relative to the index folder
        name = os.path.normpath(index.stored.folder / name)
    service = load_service(name, settings, log=log)
    encode_by_graphs(index, service.batcher.engine.name, log=log)
    waits = settings.max_queue_seconds or QUEUE_SECONDS
    searcher = Searcher(index, max_queue_seconds=waits, query_log=query_log, reranker=reranker)
    log(f"search: {len(index):,} passages of {index.stored.folder}")
    if index.exact_because:
        log(index.exact_because)
    for _, caller in keys.callers:
        if caller.forced is not None:
            log(f"search: the key {caller.name!r} finds {searcher.findable(caller).size:,} of them ({caller.forced})")
    searcher.warm_up()
    if index.stored.manifest.golden:
        log(f"search: {proven(index):.0%} of the index' golden answers are found")
    about = {"passages": len(index), "retriever": index.retriever.as_json(), "base": index.base_name}
    about |= {} if index.recall is None else {"recall": index.recall}
    about |= {} if reranker is None else {"reranker": settings.reranker}
    about |= {} if query_log is None else {"queries_are_logged": True}
    return replace(service, searcher=searcher, info=service.info | {"index": about})


def _reranker(name: str) -> CrossEncoder:
    from embedfit.models.cross_encoder import CrossEncoder  # loads torch

    return CrossEncoder.load(resolve_model(name))


def graph_engine(settings: ServeSettings) -> str:
    """The name of the engine that reads queries where none was chosen for the embedding routes."""
    if settings.engine != "auto":
        return settings.engine
    packages = {"openvino": "openvino", "onnx": "onnxruntime"}
    return next((name for name, package in packages.items() if importlib.util.find_spec(package)), "torch")


def encode_by_graphs(index: Index, engine: str, *, log: Log) -> None:
    """Let an index and its base read queries by the graphs of an engine, which gives the vectors that torch gives.

    engine: its name. Nothing changes for "torch"; a model without a right graph keeps torch, and the log says why.
    """
    kind = _GRAPHS.get(engine)
    if kind is None:
        return
    log(f"search: {engine} reads the queries, in fp32; a graph that is not in the cache is made now, once")
    for asker in dict.fromkeys((index.asker, index.base.asker)):
        try:
            asker.use_graphs(kind)
        except ModelError as error:
            log(f"search: queries are read by torch, which takes seconds to load: {error.message}")


def proven(index: Index) -> float:
    """The share of an index' golden answers that are found; 1 if it has none. Raises ModelError if too few are."""
    from embedfit.index.store.golden import LEAST_SERVED, share_found  # a model alone needs nothing of an index

    golden = index.stored.manifest.golden
    if not golden:
        return 1.0
    vectors = index.asker.ask([one.query for one in golden]).vectors
    share = share_found(index.parts, index.retriever, golden, vectors)
    if share < LEAST_SERVED:
        raise ModelError(
            f"{index.stored.folder} finds only {share:.0%} of the passages that it found for {len(golden)} queries "
            "when it was built: model or libraries work in another way here.",
            remedy=AGAIN,
        )
    return share


def _encoder(folder: Path, layout: Architecture, settings: ServeSettings) -> TextEncoder:
    prompts = {"query": "", "document": layout.document_instruction, **layout.prompts}
    tokenizer = cached_tokenizer(folder, layout, cache_folder() / "tokenizers" / f"{content_key(folder)}.json")
    named, default = settings.default_prompt_name, settings.default_prompt
    if named is not None and named not in prompts:
        raise UsageError(
            f"--default-prompt-name {named!r} is not a prompt of this model.",
            remedy=f"It has: {', '.join(sorted(prompts)) or 'none'}. Or give the text with --default-prompt.",
        )
    if default is None:  # a model folder may have a default prompt for texts without a role
        default = layout.default_instruction if named is None else prompts[named]
    return TextEncoder(
        tokenizer.tokenizer,
        max_tokens=layout.max_tokens,
        prompts=prompts,
        default_prompt=default,
        default_name=named,
        special=None if layout.pooling.include_prompt else tokenizer.special,
        executor=ThreadPoolExecutor(settings.tokenization_workers or cores(), thread_name_prefix="tokenizer"),
    )


def _choice(
    model: str, served: _Served, settings: ServeSettings, encoder: TextEncoder, log: Log
) -> tuple[EngineChoice, Capacity]:
    """The fastest engine with its capacity; int8 only if queries show that it finds as much."""
    folder, layout = served.folder, served.layout
    measurable = served.whole is None or served.after is not None  # else queries have another engine
    evaluation = evaluation_of(model, settings.gate_beir) if measurable else None
    if settings.precision == "int8" and evaluation is None:
        raise UsageError(
            "int8 is served only where queries show that it finds as much as fp32.",
            remedy="Add --gate-beir with a BEIR folder or a run folder; or use --precision auto.",
        )
    tried = candidates(folder, layout, settings, threads=cores(), gated=evaluation is not None)
    gate = None if evaluation is None else _gate(served, evaluation, encoder, log)
    fastest = partial(choose, tried, max_tokens=layout.max_tokens, precision=settings.precision, gate=gate, log=log)
    most = settings.max_batch_tokens
    judged = None if evaluation is None else f"{content_key(served.whole or folder)} {content_of(evaluation)}"
    place = place_of(content_key(folder), tried, max_batch_tokens=most, precision=settings.precision, gate=judged)
    measure = partial(calibrate, max_tokens=layout.max_tokens, max_batch_tokens=most)
    choice, capacity = known_choice(place, tried, fastest, measure, log=log)
    for label, rate in choice.rates.items():
        if rate:
            log(f"{label}: {rate:,.0f} tokens/s{' (chosen)' if label == choice.label else ''}")
    return choice, capacity


def _gate(served: _Served, evaluation: Path, encoder: TextEncoder, log: Log) -> QualityGate:
    """The quality gate, which measures once for each content of model and queries, and keeps the result."""
    folder, after = served.folder, served.after

    def rows_of(texts: Sequence[str], is_query: bool) -> list[list[int]]:
        return encoder.encode(texts, prompt=encoder.prompts["query" if is_query else "document"])

    def gate(exact: Engine, fast: Engine, label: str) -> GateResult:
        def measure() -> GateResult:
            log(f"measuring {label} on {evaluation}")
            return compare(exact, fast, trial_of(evaluation, rows_of), pad_id(folder, served.layout), after=after)

        name = f"{content_key(served.whole or folder)}-{content_of(evaluation)}-{fast.name}-{fast.precision}.json"
        return remembered(cache_folder() / "gates" / name, measure)

    return gate


def _info(
    layout: Architecture, encoder: TextEncoder, choice: EngineChoice, batcher: Batcher, settings: ServeSettings
) -> dict[str, object]:
    """The answer of /info: TEI's fields first, then fields of our own."""
    engine, capacity = choice.engine, batcher.capacity
    limits = settings.model_dump(
        include={"max_concurrent_requests", "max_batch_tokens", "max_batch_requests", "max_client_batch_size",
                 "auto_truncate", "payload_limit"}
    )  # fmt: skip
    return {
        "model_dtype": _TEIS_NAMES.get(engine.precision, engine.precision),
        "model_type": {"embedding": {"pooling": _TEIS_NAMES.get(layout.pooling.name, layout.pooling.name)}},
        "max_input_length": layout.max_tokens,
        "tokenization_workers": settings.tokenization_workers or cores(),
        "version": importlib.metadata.version("embedfit"),
        "sha": None,
        "docker_label": None,
        **limits,
        "hidden_size": layout.width,
        "modules": layout.describe(),
        "normalize": layout.normalize,
        "prompts": encoder.prompts,
        "default_prompt": encoder.default_prompt,
        "max_queue_tokens": batcher.queue_limit,
        "engine": {
            "name": engine.name,
            "precision": engine.precision,
            "device": engine.device,
            "streams": engine.streams,
            "tokens_per_second": round(capacity.tokens_per_second),
            "batch_budget": capacity.budget,
            "quality_gate": choice.verdict and asdict(choice.verdict),
            "tried": {label: rate and round(rate) for label, rate in choice.rates.items()},
        },
    }
