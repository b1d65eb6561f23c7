"""Loads an index into Qdrant beside the old rows, and moves the names to it in one step.

    NAME         an alias of the collection NAME_CONTENT: a point a passage, whose id is the passage's number
    NAME_about   an alias of NAME_CONTENT_about: point 0 holds the facts, the others what turns queries into vectors

A point has the vectors `one` (the passage's), `windows` and `queries` (multivectors, of which the best counts) and
`words` (BM25's weights, sparse), and the payload id, document, title, text, page, metadata, tokens (base64), digest,
and `filters`, which holds for conditions what metadata can't: dates as numbers, folders above, fields with odd names.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embedfit.index.sinks.conditions import FOLDER, dates_of, folders_of, keys_of
from embedfit.index.sinks.named import NamedLoader
from embedfit.index.sinks.qdrant.connection import opened, place_of
from embedfit.index.sinks.server import AtWork, Place
from embedfit.index.sinks.sink import Handover, Row
from embedfit.index.store.columns import DOCUMENT

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.http import models

#: A request holds so many bytes of vectors, which JSON makes some five times as long. A server takes 32 MB.
_REQUEST_BYTES = 2 << 20
#: Ids that are read at a time.
_PAGE = 10_000
#: The point of the facts that says that rows are being written.
_SIGN = 1 << 40
MARK = "embedfit index"


class QdrantSink:
    """The collections of a server."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for a URL that can't be read, EmbedfitError if the server does not answer."""
        self.place = place_of(url)
        with opened(self.place) as client:
            client.get_collections()

    def write(self, handover: Handover) -> None:
        """Load what is missing, then move the names to it."""
        with opened(self.place) as client:
            _Loader(client, self.place, handover).load()


class _Loader(NamedLoader):
    """One hand-over, by one connection."""

    word, scheme, mark, sign = "a collection", "qdrant", MARK, _SIGN

    def __init__(self, client: QdrantClient, place: Place, handover: Handover) -> None:
        super().__init__(place, handover)
        self._client = client
        self._keys = keys_of(self._about)

    def _facts(self, collection: str) -> Mapping[str, Any] | None:
        return facts_of(self._client, f"{collection}_about")

    def _documents(self, collection: str, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        return (point.payload or {} for point in self._points(collection, list(fields)))

    def _points(self, collection: str, payload: list[str] | bool) -> Iterator[models.Record]:
        """The points of a collection by their numbers."""
        offset: Any = None
        while True:
            found, offset = self._client.scroll(
                collection, limit=_PAGE, offset=offset, with_payload=payload, with_vectors=False
            )
            yield from found
            if offset is None:
                return

    def _aliases(self) -> dict[str, str]:
        return {one.alias_name: one.collection_name for one in self._client.get_aliases().aliases}

    def _collections(self) -> set[str]:
        return {one.name for one in self._client.get_collections().collections}

    def _holders(self, name: str) -> list[str]:
        aliases = self._aliases()
        return [aliases[name]] if name in aliases else []

    def _in_use(self) -> Collection[str]:
        return self._aliases().values()

    def _create_about(self) -> None:
        if f"{self._target}_about" not in self._collections():
            self._client.create_collection(f"{self._target}_about", vectors_config={}, metadata=self._note())

    def _note(self) -> dict[str, str]:
        """What every collection says of itself. Servers before 1.16 leave it out; the facts say it again."""
        return {MARK: self._about.content, "model": self._about.model, "fingerprint": self._about.fingerprint}

    def _put(self, number: int | str, value: Mapping[str, object]) -> None:
        from qdrant_client.http import models

        point = models.PointStruct(id=number, vector={}, payload=dict(value))
        self._client.upsert(f"{self._target}_about", [point], wait=True)

    def _create(self) -> None:
        from qdrant_client.http import models

        about = self._about
        size, dot = about.dimensions, models.Distance.DOT
        best = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
        vectors = {"one": models.VectorParams(size=size, distance=dot)} if "one" in about.holds else {}
        for name in ("windows", "queries"):
            if name in about.holds:
                vectors[name] = models.VectorParams(size=size, distance=dot, multivector_config=best)
        if self._target not in self._collections():
            sparse = {name: models.SparseVectorParams() for name in about.terms}
            self._client.create_collection(
                self._target, vectors_config=vectors, sparse_vectors_config=sparse or None, metadata=self._note()
            )

    def _fill(self, sign: AtWork) -> None:
        done = self._first_missing()
        for batch in self._handover.batches(done) if done < self._about.passages else ():
            sign.renew()
            for rows in _pieces(batch):
                self._client.upsert(self._target, points=[self._point(row) for row in rows], wait=True)
        self._check_count(self._client.count(self._target, exact=True).count)

    def _first_missing(self) -> int:
        """The least number of a passage that is not there."""
        known = {int(one.id) for one in self._points(self._target, False)}
        return next((number for number in range(len(known)) if number not in known), len(known))

    def _point(self, row: Row) -> models.PointStruct:
        from qdrant_client.http import models

        vectors: dict[str, Any] = {
            name: given.tolist()
            for name, given in (("one", row.vector), ("windows", row.windows), ("queries", row.queries))
            if given is not None
        }
        for name, own in row.words.items():
            if len(own.numbers):
                vectors[name] = models.SparseVector(indices=own.numbers.tolist(), values=own.values.tolist())
        payload = {name: getattr(row, name) for name in ("id", "document", "title", "text", "page", "digest")}
        payload |= {"metadata": dict(row.metadata), "filters": self._filters(row)}
        if row.tokens is not None:
            payload["tokens"] = base64.b64encode(row.tokens.tobytes()).decode("ascii")
        return models.PointStruct(id=row.number, vector=vectors, payload=payload)

    def _filters(self, row: Row) -> dict[str, Any]:
        dates = {self._keys[name]: found for name, found in dates_of({DOCUMENT: row.document, **row.metadata}).items()}
        odd = {self._keys[name]: value for name, value in row.metadata.items() if self._keys[name] != name}
        found = {"dates": dates, "fields": odd, "folders": folders_of(row.metadata.get(FOLDER))}
        return {name: value for name, value in found.items() if value}

    def _prepare_search(self) -> None:
        pass

    def _switch(self) -> None:
        from qdrant_client.http import models

        aliases, name = self._aliases(), self._place.name
        wanted = {name: self._target, f"{name}_about": f"{self._target}_about"}
        if any(aliases.get(one) != target for one, target in wanted.items()):
            steps: list[Any] = [
                models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=one))
                for one in wanted
                if one in aliases
            ]
            for one, target in wanted.items():
                alias = models.CreateAlias(alias_name=one, collection_name=target)
                steps.append(models.CreateAliasOperation(create_alias=alias))
            self._client.update_collection_aliases(steps)

    def _signed(self, collection: str) -> object:
        found = self._client.retrieve(f"{collection}_about", [self.sign], with_payload=True)
        return (found[0].payload or {}).get("at") if found else None

    def _drop(self, collection: str) -> None:
        self._client.delete_collection(collection)
        self._client.delete_collection(f"{collection}_about")


def facts_of(client: QdrantClient, collection: str) -> Mapping[str, Any] | None:
    """Point 0 of a collection of facts, None if there is none: it is written when all rows are there."""
    from qdrant_client.http.exceptions import UnexpectedResponse

    try:
        found = client.retrieve(collection, [0], with_payload=True)
    except UnexpectedResponse as error:
        if error.status_code == 404:
            return None
        raise
    payload = found[0].payload if found else None
    return payload if payload and MARK in payload else None


def read_questions(client: QdrantClient, collection: str, chunks: int) -> bytes:
    """The bytes that turn queries into vectors. Raises ValueError if some are missing."""
    data = b""
    for number in range(1, chunks + 1):
        found = client.retrieve(collection, [number], with_payload=True)
        if not found or not found[0].payload:
            raise ValueError("a part of the questions is missing")
        data += base64.b64decode(found[0].payload["data"])
    return data


def _pieces(batch: Sequence[Row]) -> Iterator[list[Row]]:
    """A batch as requests."""
    piece: list[Row] = []
    size = 0
    for row in batch:
        if piece and size + row.nbytes > _REQUEST_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(row)
        size += row.nbytes
    if piece:
        yield piece
