"""Loads an index into OpenSearch beside the old rows, and moves the names to it in one step.

NAME         an alias of the index NAME_CONTENT: a document a passage, whose _id is the passage's number
NAME_about   an alias of NAME_CONTENT_about: the document 0 holds the facts, the others what turns queries into
             vectors
NAME         the name of the search pipeline too
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embedfit.errors import EmbedfitError
from embedfit.index.sinks.conditions import keys_of
from embedfit.index.sinks.named import NamedLoader
from embedfit.index.sinks.opensearch.bodies import MARK, document, index_body, pipeline_body
from embedfit.index.sinks.opensearch.connection import explained, opened, place_of
from embedfit.index.sinks.server import AtWork, Place
from embedfit.index.sinks.sink import Handover

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

#: A request to load has at most so many documents and bytes. A server takes 100 MB, a small managed one 10 MB.
_REQUEST_ROWS, _REQUEST_BYTES = 500, 9 << 20
#: How often an overloaded server is asked again, and the seconds before the first time; each wait doubles.
_RETRIES, _WAIT_SECONDS = 5, 1
_PAGE = 10_000
#: The document of the facts that says that rows are being written.
_SIGN = "writing"
#: How often the names are read and moved before another hand-over that moves them too ends this one.
_SWITCHES = 5
#: The ends of the two names.
_ENDS = ("", "_about")


class OpenSearchSink:
    """The indexes of a server."""

    def __init__(self, url: str) -> None:
        """Raises UsageError for a URL that can't be read, EmbedfitError if the server does not answer."""
        self.place = place_of(url)
        with opened(self.place) as client:
            if "version" not in client.info():
                raise EmbedfitError(
                    f"{self.place.shown}: the answer is not OpenSearch's.", remedy="Look at the address and its port."
                )

    def write(self, handover: Handover) -> None:
        """Load what is missing, then move the names to it."""
        with opened(self.place) as client:
            _Loader(client, self.place, handover).load()


class _Loader(NamedLoader):
    """One hand-over, by one connection."""

    word, scheme, mark, sign = "an index", "opensearch", MARK, _SIGN

    def __init__(self, client: OpenSearch, place: Place, handover: Handover) -> None:
        super().__init__(place, handover)
        self._client = client

    def _collections(self) -> Collection[str]:
        return self._there()

    def _holders(self, name: str) -> list[str]:
        return [index for index, aliases in self._there().items() if name in aliases]

    def _in_use(self) -> Collection[str]:
        return self._holders(self._place.name)

    def _facts(self, collection: str) -> Mapping[str, Any] | None:
        return facts_of(self._client, f"{collection}_about")

    def _there(self) -> dict[str, set[str]]:
        """Each index whose name or alias begins with ours, with its aliases."""
        name = self._place.name
        found: dict[str, set[str]] = {}
        for wanted in ({"index": f"{name}*"}, {"name": f"{name},{name}_about"}):
            answer = self._client.indices.get_alias(**wanted, ignore=[404])
            for index, about in answer.items():
                if isinstance(about, Mapping) and "aliases" in about:
                    found.setdefault(index, set()).update(about["aliases"])
        return found

    def _create_about(self) -> None:
        if f"{self._target}_about" not in self._there():
            meta = {"dynamic": False, "_meta": index_body(self._about)["mappings"]["_meta"]}
            self._client.indices.create(index=f"{self._target}_about", body={"mappings": meta})

    def _create(self) -> None:
        if self._target not in self._there():
            self._client.indices.create(index=self._target, body=index_body(self._about))

    def _put(self, number: int | str, value: Mapping[str, object]) -> None:
        self._client.index(index=f"{self._target}_about", id=number, body=value)

    def _fill(self, sign: AtWork) -> None:
        from opensearchpy.helpers import streaming_bulk

        answers = streaming_bulk(
            self._client,
            self._actions(sign),
            chunk_size=_REQUEST_ROWS,
            max_chunk_bytes=_REQUEST_BYTES,
            max_retries=_RETRIES,
            initial_backoff=_WAIT_SECONDS,
            raise_on_error=False,
        )
        for loaded, item in answers:
            if not loaded:
                result: Mapping[str, Any] = next(iter(item.values()))
                error = result.get("error", "")
                said = f"{error.get('type')}: {error.get('reason')}" if isinstance(error, Mapping) else str(error)
                text, remedy = explained(int(result.get("status", 0)), said, self._place)
                raise EmbedfitError(f"{self._place.shown}, passage {result.get('_id')}: {text}", remedy=remedy)
        self._client.indices.refresh(index=self._target)
        self._check_count(self._client.count(index=self._target)["count"])

    def _actions(self, sign: AtWork) -> Iterator[dict[str, Any]]:
        keys, done = keys_of(self._about), self._first_missing()
        for batch in self._handover.batches(done) if done < self._about.passages else ():
            sign.renew()
            for row in batch:
                where = {"_op_type": "index", "_index": self._target, "_id": str(row.number)}
                yield {**where, "_source": document(row, keys)}

    def _first_missing(self) -> int:
        """The least number of a passage that is not there."""
        self._client.indices.refresh(index=self._target)
        expected = 0
        for hit in self._hits(self._target, False):
            if hit["sort"][0] != expected:
                break
            expected += 1
        return expected

    def _documents(self, collection: str, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        return (hit["_source"] for hit in self._hits(collection, list(fields)))

    def _hits(self, index: str, source: list[str] | bool) -> Iterator[Mapping[str, Any]]:
        """The documents of an index by their numbers."""
        after = -1
        while True:
            body = {"size": _PAGE, "sort": [{"number": "asc"}], "_source": source, "search_after": [after]}
            hits = self._client.search(index=index, body=body)["hits"]["hits"]
            yield from hits
            if not hits:
                return
            after = hits[-1]["sort"][0]

    def _prepare_search(self) -> None:
        """Make the search pipeline. A server before 3.0 has no z-scores and does without."""
        from opensearchpy.exceptions import TransportError

        path = f"/_search/pipeline/{self._place.name}"
        try:
            self._client.transport.perform_request("PUT", path, body=pipeline_body(self._about))
        except TransportError as error:
            if error.status_code != 400:
                raise
            self._handover.log(
                f"index: {self._place.shown} has no z-score normalisation (OpenSearch 3.0 or later), so it gets no "
                "search pipeline; the exact query needs none"
            )

    def _switch(self) -> None:
        """Move both names in one request.

        must_exist makes it fail if another hand-over has moved them since they were read; then they are read again.
        """
        from opensearchpy.exceptions import NotFoundError

        for tried in range(_SWITCHES):
            try:
                self._move()
                return
            except NotFoundError:
                if tried == _SWITCHES - 1:
                    raise

    def _move(self) -> None:
        there, steps = self._there(), []
        for suffix in _ENDS:
            name, target = f"{self._place.name}{suffix}", f"{self._target}{suffix}"
            steps += [
                {"remove": {"index": index, "alias": name, "must_exist": True}}
                for index, aliases in there.items()
                if name in aliases and index != target
            ]
            if name not in there.get(target, ()):
                steps.append({"add": {"index": target, "alias": name}})
        if steps:
            self._client.indices.update_aliases(body={"actions": steps})
        losers = sorted(self._holders(self._place.name))[:-1]  # after two first hand-overs at the same time
        if losers:
            both = [(f"{index}{end}", f"{self._place.name}{end}") for index in losers for end in _ENDS]
            own = [{"remove": {"index": index, "alias": name}} for index, name in both]
            self._client.indices.update_aliases(body={"actions": own}, ignore=[404])

    def _signed(self, collection: str) -> object:
        answer = self._client.get(index=f"{collection}_about", id=self.sign, ignore=[404])
        return answer.get("_source", {}).get("at")

    def _drop(self, collection: str) -> None:
        self._client.indices.delete(index=f"{collection},{collection}_about", ignore=[404])


def facts_of(client: OpenSearch, index: str) -> Mapping[str, Any] | None:
    """The facts of an index, None if there are none: they are written when all rows are there."""
    answer = client.get(index=index, id=0, ignore=[404])
    found = answer.get("_source")
    return found if isinstance(found, Mapping) and MARK in found else None


def read_questions(client: OpenSearch, index: str, chunks: int) -> bytes:
    """The bytes that turn queries into vectors."""
    return b"".join(
        base64.b64decode(client.get(index=index, id=number)["_source"]["data"]) for number in range(1, chunks + 1)
    )
