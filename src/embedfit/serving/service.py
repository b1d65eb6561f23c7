"""A loaded model with the functions that every route needs, without HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from embedfit.models.architecture import QUERY
from embedfit.models.layout.modules import Head, unit_rows
from embedfit.numerics.arrays import Vectors
from embedfit.serving.engines.tokens import TextEncoder
from embedfit.serving.failures import NotFound
from embedfit.serving.scheduling.batcher import Batcher
from embedfit.serving.schemas import QUERIES, VectorRequest, rows_of

if TYPE_CHECKING:  # loads torch, which a server without an index does not need
    from embedfit.serving.search.searcher import Searcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The seconds and the tokens of a request. lengths: tokens of each input."""

    tokens: int
    lengths: tuple[int, ...]
    tokenization: float
    queue: float
    inference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A tokenizer and a batcher with an engine.

    info: the answer of /info. model_name: the model's name in OpenAI's route. searcher: searches the index that is
    served beside the model; None: no index is served. queries: the tower of queries, in a model of two towers. after:
    the modules that follow the engine's own: the map of such a tower that has the engine of the passages'. adapters: by
    name, models that share this one's transformer.
    """

    encoder: TextEncoder
    batcher: Batcher
    hidden_size: int
    model_name: str
    device: str
    auto_truncate: bool
    info: dict[str, object]
    searcher: Searcher | None = None
    queries: Service | None = None
    after: Head | None = None
    adapters: Mapping[str, Service] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic

    async def embed(self, request: VectorRequest) -> tuple[Vectors, Timing]:
        """Vectors of the inputs: (N, D). Dimensions are cut first, then rows are normalised."""
        tower = self.tower(request.prompt_name)
        job_results, timing = await tower._run(request, token_states=False)
        vectors: Vectors = np.stack(job_results)
        if tower.after is not None:
            vectors = tower.after.finish_arrays(vectors)
        if request.dimensions is not None:
            vectors = np.ascontiguousarray(vectors[:, : request.dimensions])
        return (unit_rows(vectors) if request.normalize else vectors), timing

    async def token_states(self, request: VectorRequest) -> tuple[list[Vectors], Timing]:
        """Hidden states of the inputs' tokens: N of (L, H), not normalised."""
        return await self.tower(request.prompt_name)._run(request, token_states=True)

    def tower(self, prompt_name: str | None) -> Service:
        """The tower for texts with a prompt of that name: the queries' for "query", else the passages'."""
        if self.queries is None:
            return self
        named = self.encoder.default_name if prompt_name is None else prompt_name
        return self.queries if named == QUERY else self

    def named(self, model: str | None) -> Service:
        """The service of OpenAI's `model`. Raises NotFound for a name that no adapter and not this model has.

        A server without adapters has one model, which answers to any name.
        """
        name = None if model is None else model.removesuffix(QUERIES)
        if not self.adapters or name in (None, self.model_name):
            return self
        if name not in self.adapters:
            known = ", ".join([self.model_name, *self.adapters])
            raise NotFound(f"There is no model {str(name)[:200]!r} here; there are: {known}")
        return self.adapters[name]

    @property
    def batchers(self) -> tuple[Batcher, ...]:
        """The batchers of both towers, or the one that they share, and those of adapters."""
        queries = () if self.queries is None or self.queries.batcher is self.batcher else (self.queries.batcher,)
        return (self.batcher, *queries, *(one.batcher for one in self.adapters.values()))

    def close(self) -> None:
        """Stop the threads. Requests that still wait get an error."""
        for batcher in self.batchers:
            batcher.close()
        if self.searcher is not None:
            self.searcher.close()

    async def _run(self, request: VectorRequest, *, token_states: bool) -> tuple[list[Vectors], Timing]:
        started = self.clock()
        rows = await self.encoder.rows(
            rows_of(request.inputs),
            prompt=self.encoder.prompt(request.prompt_name),
            truncate=self.auto_truncate if request.truncate is None else request.truncate,
            direction=request.truncation_direction or "Right",
        )
        tokenized = self.clock()
        done = await self.batcher.run(rows, token_states=token_states)
        lengths = tuple(map(len, rows))
        return [result for result in done.results if result is not None], Timing(
            tokens=sum(lengths),
            lengths=lengths,
            tokenization=tokenized - started,
            queue=done.queue_time,
            inference=done.inference_time,
        )
