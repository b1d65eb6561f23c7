"""Documents in, a retrieval model that is provably better on them out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

#: The only place that states the version: packaging, `embedfit --version` and the server read it here.
__version__ = "0.2.0"

if TYPE_CHECKING:
    from embedfit.adapting.moving import MovedVectors
    from embedfit.commands.adapting import adapt
    from embedfit.commands.assessing import assess
    from embedfit.commands.demo import demo
    from embedfit.commands.diagnosing import diagnose
    from embedfit.commands.indexing import hand_over, index_documents, index_run, load, update_index
    from embedfit.commands.models import encode, evaluate
    from embedfit.commands.runs import RunResult, run, run_stage
    from embedfit.comparing.compare import Compared, compare
    from embedfit.config import Config
    from embedfit.errors import EmbedfitError
    from embedfit.files.conversion import convert
    from embedfit.forgetting.verb import forget
    from embedfit.index.retriever import Retriever
    from embedfit.index.search import Hit, Index
    from embedfit.index.sinks.client import connect
    from embedfit.models.encoder import Encoder, load_base
    from embedfit.models.query_map import QueryMap
    from embedfit.path.workspace import Workspace
    from embedfit.reporting.push import push
    from embedfit.runtime import Runtime

#: The names that README and docs use. docs/extending.md lists the modules that plug-ins may import besides.
__all__ = [
    "Compared",
    "Config",
    "EmbedfitError",
    "Encoder",
    "Hit",
    "Index",
    "MovedVectors",
    "QueryMap",
    "Retriever",
    "RunResult",
    "Runtime",
    "Workspace",
    "__version__",
    "adapt",
    "assess",
    "compare",
    "connect",
    "convert",
    "demo",
    "diagnose",
    "encode",
    "evaluate",
    "forget",
    "hand_over",
    "index_documents",
    "index_run",
    "load",
    "load_base",
    "push",
    "run",
    "run_stage",
    "update_index",
]

_HOMES = {
    "Compared": "embedfit.comparing.compare",
    "Config": "embedfit.config",
    "EmbedfitError": "embedfit.errors",
    "Encoder": "embedfit.models.encoder",
    "Hit": "embedfit.index.search",
    "Index": "embedfit.index.search",
    "MovedVectors": "embedfit.adapting.moving",
    "QueryMap": "embedfit.models.query_map",
    "Retriever": "embedfit.index.retriever",
    "RunResult": "embedfit.commands.runs",
    "Runtime": "embedfit.runtime",
    "Workspace": "embedfit.path.workspace",
    "adapt": "embedfit.commands.adapting",
    "assess": "embedfit.commands.assessing",
    "compare": "embedfit.comparing.compare",
    "connect": "embedfit.index.sinks.client",
    "convert": "embedfit.files.conversion",
    "demo": "embedfit.commands.demo",
    "diagnose": "embedfit.commands.diagnosing",
    "encode": "embedfit.commands.models",
    "evaluate": "embedfit.commands.models",
    "forget": "embedfit.forgetting.verb",
    "hand_over": "embedfit.commands.indexing",
    "index_documents": "embedfit.commands.indexing",
    "index_run": "embedfit.commands.indexing",
    "load": "embedfit.commands.indexing",
    "load_base": "embedfit.models.encoder",
    "push": "embedfit.reporting.push",
    "run": "embedfit.commands.runs",
    "run_stage": "embedfit.commands.runs",
    "update_index": "embedfit.commands.indexing",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first used: importing embedfit alone loads neither torch nor boto3."""
    if name not in _HOMES:
        raise AttributeError(f"module 'embedfit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
