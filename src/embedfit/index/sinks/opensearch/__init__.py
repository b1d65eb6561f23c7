"""An index in OpenSearch, and as the files that a person loads there."""

from __future__ import annotations

from embedfit.index.sinks.opensearch.connection import EXTRA, FORM
from embedfit.index.sinks.opensearch.files import FILES_FORM, OpenSearchFiles
from embedfit.index.sinks.opensearch.load import OpenSearchSink
from embedfit.index.sinks.opensearch.search import OpenSearchStore
from embedfit.index.sinks.sink import SinkKind

SINK = SinkKind(form=FORM, open=OpenSearchSink, read=OpenSearchStore, extra=EXTRA)
FILES = SinkKind(form=FILES_FORM, open=OpenSearchFiles)
