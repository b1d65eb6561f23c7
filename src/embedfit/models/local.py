"""A model folder, of one tower or of two, as a source of stored vectors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embedfit.config import Config
from embedfit.errors import ModelError
from embedfit.files.hashes import sha256_file
from embedfit.models.architecture import Architecture
from embedfit.models.graphs.encoder import GraphEncoder, GraphKind
from embedfit.models.layout.files import content_names
from embedfit.models.layout.prompts import open_model
from embedfit.models.layout.reading import read_architecture
from embedfit.models.store.vectors import Storage, VectorStore
from embedfit.models.text_model import TextModel
from embedfit.models.tokenizer import open_tokenizer
from embedfit.models.windows import blended, windows_of_model
from embedfit.numerics.arrays import Ints, Vectors
from embedfit.numerics.machine import Precision, encoding_precision
from embedfit.path.workspace import sha256_json
from embedfit.progress import Reporter

if TYPE_CHECKING:
    from embedfit.models.encoder import Encoder

#: Change this whenever the computation of vectors changes, so that vectors stored before are not found.
_VERSION = 2
#: One thread at a time loads a model, because transformers' settings of its output belong to the whole process.
_LOADING = threading.Lock()


class LocalModel:
    """A model folder as an Embedder. It is loaded when a vector is missing in the store.

    A model of two towers is one LocalModel; the store keeps each tower's vectors under that tower's key.
    """

    storage: Storage = "key"

    def __init__(
        self, name: str, folder: Path, *, query_instruction: str | None = None, layout: Architecture | None = None
    ) -> None:
        """query_instruction: replaces the folder's. layout: the folder's with its right prompts."""
        self.name = name
        self.folder = folder
        self.layout = (layout or read_architecture(folder)).with_prompts(query=query_instruction)
        self._encoder: Encoder | None = None
        self._graph: GraphEncoder | None = None
        self._key: str | None = None
        self._precision: Precision | None = None
        self._towers: tuple[LocalModel, LocalModel] | None = None
        self._beside: LocalModel | None = None  # the other tower, which may have the same transformer
        if self.layout.queries is not None:
            passages = LocalModel(name, folder, layout=self.layout.tower(is_query=False))
            queries = LocalModel(name, folder, layout=self.layout.queries)
            passages._beside, queries._beside = queries, passages
            self._towers = passages, queries

    def tower(self, *, is_query: bool) -> LocalModel:
        """The model that encodes queries or passages: the model itself if it has one tower."""
        return self if self._towers is None else self._towers[is_query]

    @property
    def key(self) -> str:
        """Hash of weights, tokenizer, layout and precision."""
        if self._towers is not None:
            return sha256_json({"towers": [tower.key for tower in self._towers]})
        if self._key is None:
            files = {name: sha256_file(path) for name, path in content_names(self.folder, self.layout).items()}
            layout: dict[str, object] = {"modules": self.layout.records(), "dimensions": self.layout.dimensions}
            if self.layout.document_instruction:
                layout["document"] = self.layout.document_instruction
            self._key = sha256_json(
                {"version": _VERSION, "files": files, "layout": layout, "precision": self.precision}
            )
        return self._key

    @property
    def precision(self) -> Precision:
        """The precision in which the model encodes: this machine's, or that of the process that sent the model here."""
        if self._precision is None:
            self._precision = encoding_precision()
        return self._precision

    def __getstate__(self) -> dict[str, object]:
        """What another process needs, which loads the weights itself."""
        _ = self.key, self.precision
        return {**self.__dict__, "_encoder": None, "_graph": None}

    @property
    def instruction(self) -> str:
        """The layout's query instruction."""
        return self.layout.query_instruction

    def embed(self, texts: Sequence[str], *, is_query: bool) -> Vectors:
        """Unit rows: (N, H)."""
        return self.tower(is_query=is_query).text_model().encode_unit(texts, is_query=is_query)

    def text_model(self) -> TextModel:
        """The model that encodes, loaded: a graph after use_graphs(), else torch's encoder."""
        return self._graph or self.encoder()

    def use_graphs(self, kind: GraphKind, *, tokens: bool) -> None:
        """Encode by graphs from now on, without torch. tokens: whether tokens' vectors are asked for, too.

        Raises ModelError if a graph can't give torch's vectors; then torch stays.
        """
        if self.precision != "fp32":
            raise ModelError(f"{self.name} encodes in {self.precision} on this machine, and its graphs in fp32.")
        passages, queries = self.tower(is_query=False), self.tower(is_query=True)
        graph = GraphEncoder.load(self.folder, kind, layout=passages.layout, is_query=False)
        if queries.layout.first == passages.layout.first:
            other = graph.beside(queries.layout)
        else:
            other = GraphEncoder.load(self.folder, kind, layout=queries.layout, is_query=True)
        if tokens and not (graph.graph.has_inner and other.graph.has_inner):
            raise ModelError(f"{self.name}: its graphs do not give the states that late interaction reads.")
        passages._graph, queries._graph = graph, other

    def encoder(self) -> Encoder:
        """The loaded model. Of two towers each is loaded when it is first needed."""
        from embedfit.models.encoder import Encoder  # loads torch, which graphs do without

        if self._towers is not None:
            passages, queries = self._towers
            return Encoder.of_towers(passages.encoder(), queries.encoder(), layout=self.layout)
        with _LOADING:
            if self._encoder is None:
                beside = None if self._beside is None else self._beside._encoder
                self._encoder = Encoder.load(self.folder, precision=self.precision, layout=self.layout, beside=beside)
            return self._encoder

    def release(self) -> None:
        """Drop the weights."""
        self._encoder = None
        for tower in self._towers or ():
            tower.release()


def local_model(label: str, name: str, *, query_instruction: str | None = None) -> LocalModel:
    """A model by alias, hub id or path. query_instruction: default its right one."""
    folder, layout = open_model(name, query_instruction)
    return LocalModel(label, folder, layout=layout)


def stored_windows(
    model: LocalModel, contents: Sequence[str], whole: Vectors, max_tokens: int, cache: VectorStore, report: Reporter
) -> tuple[Vectors, Ints]:
    """Vectors (W, H) of all windows of N passages, and the number (N,) of each passage's first one.

    whole: (N, H), the passages' own vectors, which are blended into their windows'. max_tokens: a window's.
    """
    passages = model.tower(is_query=False)
    tokenizer = open_tokenizer(passages.folder, passages.layout).tokenizer
    windows = windows_of_model(contents, tokenizer, passages.layout, max_tokens=max_tokens)
    report.log(
        f"{model.name}: {len(windows.starts):,} passages are {len(windows.texts):,} windows"
        f" of at most {max_tokens} tokens"
    )
    try:
        vectors = cache.embed(model, windows.texts, is_query=False, report=report)
    finally:
        model.release()
    return blended(vectors, whole, windows.starts), windows.starts


def base_model(config: Config) -> LocalModel:
    """The base of a run with its right query instruction, whatever the tuned model was trained with.

    The user's instruction holds for a base that has none of its own. With an instruction that it never saw, the base
    would look worse than it is, and any tuning would look good.
    """
    folder, layout = open_model(config.model)
    if not layout.query_instruction:
        layout = layout.with_prompts(query=config.query_instruction)
    return LocalModel("base", folder, layout=layout)
