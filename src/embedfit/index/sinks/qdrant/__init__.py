"""An index in Qdrant."""

from __future__ import annotations

from embedfit.index.sinks.qdrant.connection import EXTRA, FORM
from embedfit.index.sinks.qdrant.load import QdrantSink
from embedfit.index.sinks.qdrant.search import QdrantStore
from embedfit.index.sinks.sink import SinkKind

SINK = SinkKind(form=FORM, open=QdrantSink, read=QdrantStore, extra=EXTRA)
