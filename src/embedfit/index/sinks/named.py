"""A hand-over to a server that has names for its collections and no lock: what Qdrant and OpenSearch share."""

from __future__ import annotations

import base64
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from embedfit.errors import EmbedfitError, InputError, UsageError
from embedfit.index.sinks.changes import say_changes
from embedfit.index.sinks.server import AtWork, Place, is_at_work
from embedfit.index.sinks.sink import About, Digest, Handover, read_about

#: Bytes of the questions in a part.
_CHUNK = 1 << 20


class NamedLoader(ABC):
    """One hand-over: rows are loaded beside the earlier ones, and then the name moves to them.

    NAME         a name of the collection NAME_CONTENT, which holds the passages
    NAME_about   a name of NAME_CONTENT_about: 0 holds the facts, 1 and up what turns queries into vectors
    """

    #: The server's word for a collection, with its article; its scheme; the mark of the facts; the id of the sign.
    word: ClassVar[str]
    scheme: ClassVar[str]
    mark: ClassVar[str]
    sign: ClassVar[int | str]

    def __init__(self, place: Place, handover: Handover) -> None:
        self._place = place
        self._handover = handover
        self._about: About = handover.about
        self._target = f"{place.name}_{self._about.content}"

    def load(self) -> None:
        """Everything."""
        self._check_names()
        before = self._holders(self._place.name)
        if before == [self._target] and self._facts(self._target) is not None:
            self._handover.log(f"index: {self._place.shown} holds these rows already")
            self._prepare_search()
            self._drop_others()
            return
        self._create_about()
        with AtWork(lambda now: self._put(self.sign, {"at": now})) as sign:
            if self._facts(self._target) is None:
                self._create()
                self._fill(sign)
                self._write_facts()
            if before and self._is_read(before[0]):
                say_changes(self._handover, self._digests(before[0]))
            self._prepare_search()
            self._switch()
            self._drop_others()
        if self._target not in self._holders(self._place.name):
            self._handover.log(f"index: another hand-over has put its rows in {self._place.shown} meanwhile; they stay")
            self._drop(self._target)

    def _check_names(self) -> None:
        """Raise UsageError if a name that is needed belongs to something else."""
        collections, ours = self._collections(), self._ours()
        for name in (self._place.name, f"{self._place.name}_about"):
            holders = self._holders(name)
            if name in collections or any(one.removesuffix("_about") not in ours for one in holders):
                raise UsageError(
                    f"The server has {self.word} {name} that is not embedfit's; it is not touched.",
                    remedy=f"Choose another name: --to {self.scheme}://HOST/NAME",
                )

    def _ours(self) -> list[str]:
        """The collections of hand-overs to this name, whole or not. Each has one for its facts beside it."""
        every = self._collections()
        pattern = re.compile(rf"{re.escape(self._place.name)}_[0-9a-f]{{16}}")
        return [name for name in every if pattern.fullmatch(name) and f"{name}_about" in every]

    def _is_read(self, collection: str) -> bool:
        """Whether a collection is of this edition."""
        facts = self._facts(collection)
        try:
            return facts is not None and bool(read_about(str(facts["about"]), self._place.shown))
        except InputError:
            return False

    def _digests(self, collection: str) -> Iterator[Digest]:
        for one in self._documents(collection, ["id", "digest"]):
            yield Digest(str(one["id"]), str(one["digest"]))

    def _check_count(self, count: int) -> None:
        """Raise EmbedfitError if not all passages are there after the load."""
        if count != self._about.passages:
            raise EmbedfitError(
                f"{self._place.shown} holds {count:,} of {self._about.passages:,} passages after the load.",
                remedy="Run the same command again: it loads those that are missing.",
            )

    def _write_facts(self) -> None:
        data = self._handover.questions
        chunks = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
        for number, chunk in enumerate(chunks, 1):
            self._put(number, {"data": base64.b64encode(chunk).decode("ascii")})
        facts = {self.mark: self._about.content, "chunks": len(chunks), "about": self._about.model_dump_json()}
        self._put(0, facts)

    def _drop_others(self) -> None:
        """Drop earlier rows, and what a broken-off load left. Rows that another process writes now stay."""
        used = self._in_use()
        for other in self._ours():
            if other != self._target and other not in used and not is_at_work(self._signed(other)):
                self._drop(other)

    @abstractmethod
    def _prepare_search(self) -> None:
        """Make what the server needs, beside the rows, to search them."""

    @abstractmethod
    def _collections(self) -> Collection[str]:
        """The collections of the server, as far as they concern this name."""

    @abstractmethod
    def _holders(self, name: str) -> list[str]:
        """The collections that a name stands for: one, or none at first."""

    @abstractmethod
    def _in_use(self) -> Collection[str]:
        """Collections that some name stands for."""

    @abstractmethod
    def _facts(self, collection: str) -> Mapping[str, Any] | None:
        """The facts of a collection; None until all rows are there."""

    @abstractmethod
    def _documents(self, collection: str, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Some fields of the passages of a collection, by their numbers."""

    @abstractmethod
    def _signed(self, collection: str) -> object:
        """When a load of a collection last said that it is at work."""

    @abstractmethod
    def _put(self, number: int | str, value: Mapping[str, object]) -> None:
        """Write an entry of the facts."""

    @abstractmethod
    def _create_about(self) -> None:
        """Make the collection of the facts, unless an interrupted load made it."""

    @abstractmethod
    def _create(self) -> None:
        """Make the collection of the passages, unless an interrupted load made it."""

    @abstractmethod
    def _fill(self, sign: AtWork) -> None:
        """Load the rows behind those that an interrupted load left. A request that broke off may have left some."""

    @abstractmethod
    def _switch(self) -> None:
        """Move both names to this content in one request, which the server does whole or not."""

    @abstractmethod
    def _drop(self, collection: str) -> None:
        """Drop a collection and its facts."""
