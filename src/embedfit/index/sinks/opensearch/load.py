"""Loads an index into OpenSearch beside the old rows, and moves the names to it in one step.

NAME         an alias of the index NAME_CONTENT: a document a passage, whose _id is the passage's number
NAME_about   an alias of NAME_CONTENT_about: the document 0 holds the facts, the others what turns queries into
             vectors
NAME         the name of the search pipeline too
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from embedfit.errors import EmbedfitError, InputError, UsageError
from embedfit.index.sinks.changes import say_changes
from embedfit.index.sinks.conditions import keys_of
from embedfit.index.sinks.opensearch.bodies import MARK, document, index_body, pipeline_body
from embedfit.index.sinks.opensearch.connection import explained, opened, place_of
from embedfit.index.sinks.server import AtWork, Place, is_at_work
from embedfit.index.sinks.sink import About, Digest, Handover, read_about

if TYPE_CHECKING:
    from opensearchpy import OpenSearch

#: A request to load has at most so many documents and bytes. A server takes 100 MB, a small managed one 10 MB.
_REQUEST_ROWS, _REQUEST_BYTES = 500, 9 << 20
#: How often an overloaded server is asked again, and the seconds before the first time; each wait doubles.
_RETRIES, _WAIT_SECONDS = 5, 1
_CHUNK = 1 << 20
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


class _Loader:
    """One hand-over, by one connection."""

    def __init__(self, client: OpenSearch, place: Place, handover: Handover) -> None:
        self._client = client
        self._place = place
        self._handover = handover
        self._about: About = handover.about
        self._target = f"{place.name}_{self._about.content}"

    def load(self) -> None:
        """Everything."""
        self._check_names()
        before = self._shown()
        if before == [self._target] and facts_of(self._client, f"{self._target}_about") is not None:
            self._handover.log(f"index: {self._place.shown} holds these rows already")
            self._pipeline()
            self._drop_others()
            return
        self._create_about()
        with AtWork(self._sign) as sign:
            if facts_of(self._client, f"{self._target}_about") is None:
                self._create()
                self._fill(sign)
                self._write_facts()
            if before and self._is_read(before[0]):
                say_changes(self._handover, self._digests(before[0]))
            self._pipeline()
            self._switch()
            self._drop_others()
        if self._target not in self._shown():
            self._handover.log(f"index: another hand-over has put its rows in {self._place.shown} meanwhile; they stay")
            self._drop(self._target)

    def _shown(self) -> list[str]:
        """The indexes that the name stands for: one, or none at first."""
        return [index for index, aliases in self._there().items() if self._place.name in aliases]

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

    def _ours(self) -> list[str]:
        """The indexes of hand-overs to this name, whole or not. Each has one for its facts beside it."""
        there = self._there()
        pattern = re.compile(rf"{re.escape(self._place.name)}_[0-9a-f]{{16}}")
        return [name for name in there if pattern.fullmatch(name) and f"{name}_about" in there]

    def _check_names(self) -> None:
        """Raise UsageError if a name that is needed belongs to something else."""
        there, ours = self._there(), self._ours()
        for name in (self._place.name, f"{self._place.name}_about"):
            holders = [index for index, aliases in there.items() if name in aliases]
            if name in there or any(index.removesuffix("_about") not in ours for index in holders):
                raise UsageError(
                    f"The server has an index {name} that is not embedfit's; it is not touched.",
                    remedy="Choose another name: --to opensearch://HOST/NAME",
                )

    def _create_about(self) -> None:
        """The index of the facts, unless an interrupted load made it."""
        if f"{self._target}_about" not in self._there():
            meta = {"dynamic": False, "_meta": index_body(self._about)["mappings"]["_meta"]}
            self._client.indices.create(index=f"{self._target}_about", body={"mappings": meta})

    def _create(self) -> None:
        """The index of the passages, unless an interrupted load made it."""
        if self._target not in self._there():
            self._client.indices.create(index=self._target, body=index_body(self._about))

    def _sign(self, now: float) -> None:
        self._client.index(index=f"{self._target}_about", id=_SIGN, body={"at": now})

    def _fill(self, sign: AtWork) -> None:
        """Load the rows behind those that an interrupted load left. A request that broke off may have left some."""
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
        count = self._client.count(index=self._target)["count"]
        if count != self._about.passages:
            raise EmbedfitError(
                f"{self._place.shown} holds {count:,} of {self._about.passages:,} passages after the load.",
                remedy="Run the same command again: it loads those that are missing.",
            )

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
        for hit in self._documents(self._target, False):
            if hit["sort"][0] != expected:
                break
            expected += 1
        return expected

    def _documents(self, index: str, source: list[str] | bool) -> Iterator[Mapping[str, Any]]:
        """The documents of an index by their numbers."""
        after = -1
        while True:
            body = {"size": _PAGE, "sort": [{"number": "asc"}], "_source": source, "search_after": [after]}
            hits = self._client.search(index=index, body=body)["hits"]["hits"]
            yield from hits
            if not hits:
                return
            after = hits[-1]["sort"][0]

    def _is_read(self, index: str) -> bool:
        """Whether an index is of this edition."""
        facts = facts_of(self._client, f"{index}_about")
        try:
            return facts is not None and bool(read_about(str(facts["about"]), self._place.shown))
        except InputError:
            return False

    def _digests(self, index: str) -> Iterator[Digest]:
        for hit in self._documents(index, ["id", "digest"]):
            yield Digest(str(hit["_source"]["id"]), str(hit["_source"]["digest"]))

    def _write_facts(self) -> None:
        name, data = f"{self._target}_about", self._handover.questions
        chunks = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
        for number, chunk in enumerate(chunks, 1):
            self._client.index(index=name, id=number, body={"data": base64.b64encode(chunk).decode("ascii")})
        facts = {MARK: self._about.content, "chunks": len(chunks), "about": self._about.model_dump_json()}
        self._client.index(index=name, id=0, body=facts)

    def _pipeline(self) -> None:
        """The search pipeline. A server before 3.0 has no z-scores and does without."""
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
        """Move both names to this content in one request, which the server does whole or not.

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
        losers = sorted(self._shown())[:-1]  # after two first hand-overs at the same time
        if losers:
            both = [(f"{index}{end}", f"{self._place.name}{end}") for index in losers for end in _ENDS]
            own = [{"remove": {"index": index, "alias": name}} for index, name in both]
            self._client.indices.update_aliases(body={"actions": own}, ignore=[404])

    def _drop_others(self) -> None:
        """Drop earlier rows, and what a broken-off load left. Rows that another process writes now stay."""
        shown = self._shown()
        for other in self._ours():
            if other != self._target and other not in shown and not self._is_at_work(other):
                self._drop(other)

    def _is_at_work(self, index: str) -> bool:
        answer = self._client.get(index=f"{index}_about", id=_SIGN, ignore=[404])
        return is_at_work(answer.get("_source", {}).get("at"))

    def _drop(self, index: str) -> None:
        self._client.indices.delete(index=f"{index},{index}_about", ignore=[404])


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
