"""The reading process: it reads one document after another and answers in lines of JSON.

`isolation` starts it and sends {"place", "path", "seconds"} lines; an answer is any number of {"progress": [done,
total]} lines, then {"document": …} or {"reason": …}. It loads a reader when a first document of its kind comes, and
nothing of the rest of embedfit.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, TextIO

from embedfit.corpus.blocks import ParsedDocument, UnreadableDocument
from embedfit.corpus.readers import registry
from embedfit.corpus.sources.metadata import bounded

#: More text than this is no document that anybody reads; the other process would have to hold it.
_MAX_CHARACTERS = 200_000_000
_MAX_REASON = 300


def main() -> None:
    """Answer requests until the input ends. The argument: MiB of memory that reading may take."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii", newline="\n")
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process is asked, and ends this one
    _limit_memory(int(sys.argv[1]))
    _answer(answers, {"ready": True})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_time(request["seconds"])
        try:
            _answer(answers, _outcome(request, lambda done, total: _answer(answers, {"progress": [done, total]})))
        except MemoryError:
            _answer(answers, {"memory": True})
            break  # what is left of the document may fill the memory


def _answer(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _outcome(request: dict[str, Any], progress: registry.Progress) -> dict[str, Any]:
    """The answer. Raises MemoryError, and nothing else."""
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
    except MemoryError:
        raise
    except RecursionError:
        return {"reason": "nested too deeply"}
    except Exception as error:  # a reader's packages may raise anything on a hostile file
        reason = f"the reader of {reader.kind} fails: {type(error).__name__}: {error}"
        return {"reason": _first_line(reason)}


def _first_line(message: str) -> str:
    return (message.strip().splitlines() or ["no reason given"])[0][:_MAX_REASON]


def as_json(document: ParsedDocument) -> dict[str, Any]:
    """A document as lists and strings. Raises UnreadableDocument for more text than anybody reads."""
    if sum(len(block.text) for block in document.blocks) > _MAX_CHARACTERS:
        raise UnreadableDocument(f"holds more than {_MAX_CHARACTERS:,} characters of text")
    metadata, cut = bounded(document.metadata)
    return {
        "blocks": [[one.kind, one.text, one.level, one.page, one.breaks] for one in document.blocks],
        "pages": document.pages,
        "note": document.note,
        "removed": [[one.page, one.reason, one.preview] for one in document.removed],
        "metadata": metadata,
        "cut": cut,
    }


def _limit_memory(mebibytes: int) -> None:
    """Bound the address space, where the system can (not on Windows; macOS takes the limit and ignores it)."""
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
