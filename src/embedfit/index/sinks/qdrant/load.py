"""Loads an index into Qdrant beside the old rows, and moves the names to it in one step.

    NAME         an alias of the collection NAME_CONTENT: a point a passage, whose id is the passage's number
    NAME_about   an alias of NAME_CONTENT_about: point 0 holds the facts, the others what turns queries into vectors

A point has the vectors `one` (the passage's), `windows` and `queries` (multivectors, of which the best counts) and
`words` (BM25's weights, sparse), and the payload id, document, title, text, page, metadata, tokens (base64), digest,
and `filters`, which holds for conditions what metadata can't: dates as numbers, folders above, fields with odd names.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embedfit.errors import EmbedfitError, InputError, UsageError
from embedfit.index.sinks.changes import say_changes
from embedfit.index.sinks.conditions import FOLDER, dates_of, folders_of, keys_of
from embedfit.index.sinks.qdrant.connection import opened, place_of
from embedfit.index.sinks.server import AtWork, Place, is_at_work
from embedfit.index.sinks.sink import About, Digest, Handover, Row, read_about
from embedfit.index.store.columns import DOCUMENT

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.http import models

#: A request holds so many bytes of vectors, which JSON makes some five times as long. A server takes 32 MB.
_REQUEST_BYTES = 2 << 20
#: Bytes of the questions in a point.
_CHUNK = 1 << 20
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


class _Loader:
    """One hand-over, by one connection."""

    def __init__(self, client: QdrantClient, place: Place, handover: Handover) -> None:
        self._client = client
        self._place = place
        self._handover = handover
        self._about: About = handover.about
        self._target = f"{place.name}_{self._about.content}"
        self._keys = keys_of(self._about)

    def load(self) -> None:
        """Everything."""
        self._check_names()
        before = self._aliases().get(self._place.name)
        if before == self._target and facts_of(self._client, f"{self._target}_about") is not None:
            self._handover.log(f"index: {self._place.shown} holds these rows already")
            self._drop_others()
            return
        self._create_about()
        with AtWork(self._sign) as sign:
            if facts_of(self._client, f"{self._target}_about") is None:
                self._create()
                self._fill(sign)
                self._write_facts()
            if before is not None and self._is_read(before):
                say_changes(self._handover, self._digests(before))
            self._switch()
            self._drop_others()
        if self._aliases().get(self._place.name) != self._target:
            self._handover.log(f"index: another hand-over has put its rows in {self._place.shown} meanwhile; they stay")
            self._drop(self._target)

    def _is_read(self, collection: str) -> bool:
        """Whether a collection is of this edition."""
        facts = facts_of(self._client, f"{collection}_about")
        try:
            return facts is not None and bool(read_about(str(facts["about"]), self._place.shown))
        except InputError:
            return False

    def _digests(self, collection: str) -> Iterator[Digest]:
        for point in self._points(collection, ["id", "digest"]):
            payload = point.payload or {}
            yield Digest(str(payload["id"]), str(payload["digest"]))

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

    def _ours(self) -> list[str]:
        """The collections of hand-overs to this name, whole or not. Each has one for its facts beside it."""
        every = self._collections()
        pattern = re.compile(rf"{re.escape(self._place.name)}_[0-9a-f]{{16}}")
        return [name for name in every if pattern.fullmatch(name) and f"{name}_about" in every]

    def _check_names(self) -> None:
        """Raise UsageError if a name that is needed belongs to something else."""
        names, collections, aliases = self._place.name, self._collections(), self._aliases()
        ours = self._ours()
        for name in (names, f"{names}_about"):
            other = aliases.get(name, "").removesuffix("_about")
            if name in collections or (name in aliases and other not in ours):
                raise UsageError(
                    f"The server has a collection {name} that is not embedfit's; it is not touched.",
                    remedy="Choose another name: --to qdrant://HOST/NAME",
                )

    def _create_about(self) -> None:
        """The collection of the facts, unless an interrupted load made it."""
        if f"{self._target}_about" not in self._collections():
            self._client.create_collection(f"{self._target}_about", vectors_config={}, metadata=self._note())

    def _note(self) -> dict[str, str]:
        """What every collection says of itself. Servers before 1.16 leave it out; the facts say it again."""
        return {MARK: self._about.content, "model": self._about.model, "fingerprint": self._about.fingerprint}

    def _sign(self, now: float) -> None:
        from qdrant_client.http import models

        point = models.PointStruct(id=_SIGN, vector={}, payload={"at": now})
        self._client.upsert(f"{self._target}_about", [point], wait=True)

    def _create(self) -> None:
        """The collection of the passages, unless an interrupted load made it."""
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
        """Load the rows behind those that an interrupted load left. A request that broke off may have left some."""
        done = self._first_missing()
        for batch in self._handover.batches(done) if done < self._about.passages else ():
            sign.renew()
            for rows in _pieces(batch):
                self._client.upsert(self._target, points=[self._point(row) for row in rows], wait=True)
        count = self._client.count(self._target, exact=True).count
        if count != self._about.passages:
            raise EmbedfitError(
                f"{self._place.shown} holds {count:,} of {self._about.passages:,} passages after the load.",
                remedy="Run the same command again: it loads those that are missing.",
            )

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

    def _write_facts(self) -> None:
        from qdrant_client.http import models

        data, name = self._handover.questions, f"{self._target}_about"
        chunks = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
        for number, chunk in enumerate(chunks, 1):
            payload: dict[str, Any] = {"data": base64.b64encode(chunk).decode("ascii")}
            self._client.upsert(name, [models.PointStruct(id=number, vector={}, payload=payload)], wait=True)
        facts = {MARK: self._about.content, "chunks": len(chunks), "about": self._about.model_dump_json()}
        self._client.upsert(name, [models.PointStruct(id=0, vector={}, payload=facts)], wait=True)

    def _switch(self) -> None:
        """Move both names to this content in one request, which the server does whole or not."""
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

    def _drop_others(self) -> None:
        """Drop earlier rows, and what a broken-off load left. Rows that another process writes now stay."""
        shown = self._aliases().values()
        for other in self._ours():
            if other != self._target and other not in shown and not self._is_at_work(other):
                self._drop(other)

    def _is_at_work(self, collection: str) -> bool:
        found = self._client.retrieve(f"{collection}_about", [_SIGN], with_payload=True)
        return bool(found) and is_at_work((found[0].payload or {}).get("at"))

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
