"""An index in PostgreSQL with pgvector."""

from __future__ import annotations

from embedfit.index.sinks.postgres.connection import EXTRA, FORM
from embedfit.index.sinks.postgres.load import PostgresSink
from embedfit.index.sinks.postgres.search import PostgresStore
from embedfit.index.sinks.sink import SinkKind

SINK = SinkKind(form=FORM, open=PostgresSink, read=PostgresStore, extra=EXTRA)
