"""The reading process: it reads one document after another and answers in lines of JSON.

`isolation` starts it and sends {"place", "path", "seconds"} lines; an answer is any number of {"progress": [done,
total]} lines, then {"document": …} or {"reason": …}. It loads a reader with the first document of its kind, and no
other part of embedfit.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TextIO, TypedDict

from embedfit.corpus.blocks import ParsedDocument, UnreadableDocument
from embedfit.corpus.readers import registry
from embedfit.corpus.sources.metadata import bounded

#: The most characters of a document: nobody reads more, and the parent process would have to hold it.
_MAX_CHARACTERS = 200_000_000
_MAX_REASON = 300


class Request(TypedDict):
    """A line that asks for a document. place: "module:NAME" of its reader. seconds: of processor time at most."""

    place: str
    path: str
    seconds: int


def main() -> None:
    """Answer requests until the input ends. The argument: MiB of memory that reading may take."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii", newline="\n")
    os.dup2(2, 1)  # the output of libraries must not mix with the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    _limit_memory(int(sys.argv[1]))
    _answer(answers, {"ready": True})
    for line in sys.stdin.buffer:
        request: Request = json.loads(line)
        _limit_time(request["seconds"])
        try:
            _answer(answers, _outcome(request, lambda done, total: _answer(answers, {"progress": [done, total]})))
        except MemoryError:
            _answer(answers, {"memory": True})
            break  # the rest of the document may fill the memory


def _answer(answers: TextIO, answer: dict[str, object]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _outcome(request: Request, progress: registry.Progress) -> dict[str, object]:
    """The answer to a request. Raises MemoryError, and nothing else."""
    try:
        reader = registry.load(request["place"])
    except Exception as error:  # a plug-in's module may raise anything
        return {"reason": _first_line(str(error))}
    try:
        parsed = reader.read(Path(request["path"]), progress)
        return {"document": as_json(parsed)}
    except UnreadableDocument as error:
        return {"reason": str(error)}
    except ImportError as error:
        if reader.extra:
            return {"reason": f"{reader.kind} needs an extra: pip install 'embedfit[{reader.extra}]'"}
        return {"reason": f"the reader of {reader.kind} fails: {_first_line(str(error))}"}
    except OSError as error:
        return {"reason": f"can't be read: {error.strerror or _first_line(str(error))}"}
    except RecursionError:
        return {"reason": "nested too deeply"}
    except MemoryError:
        raise
    except Exception as error:  # a reader's packages may raise anything on a hostile file
        return {"reason": _first_line(f"the reader of {reader.kind} fails: {type(error).__name__}: {error}")}


def _first_line(message: str) -> str:
    return (message.strip().splitlines() or ["no reason given"])[0][:_MAX_REASON]


def as_json(document: ParsedDocument) -> dict[str, object]:
    """A document as lists and strings. Raises UnreadableDocument for more text than anybody reads."""
    if sum(len(block.text) for block in document.blocks) > _MAX_CHARACTERS:
        raise UnreadableDocument(f"holds more than {_MAX_CHARACTERS:,} characters of text")
    fields, cut = bounded(document.metadata)
    return asdict(replace(document, metadata={}, fields=fields, cut=tuple(cut)))


def _limit_memory(mebibytes: int) -> None:
    """Bound the address space if the system can (Windows can't; macOS takes the limit and ignores it)."""
    try:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (mebibytes << 20, resource.RLIM_INFINITY))
    except (ImportError, ValueError, OSError):
        pass


def _limit_time(seconds: int) -> None:
    """Let this process have so many further seconds of processor time; then the system ends it."""
    try:
        import resource  # not on Windows

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(used) + seconds + 1, resource.RLIM_INFINITY))
    except (ImportError, ValueError, OSError):
        pass
