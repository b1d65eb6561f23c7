"""Every language-model reply, durable before it is used: see `store`."""

from embedfit.llm.ledger.database import SCHEMA_VERSION
from embedfit.llm.ledger.rows import (
    BatchJob,
    Experience,
    JobRecord,
    LedgerRow,
    ModelTotals,
    Usage,
    call_id,
    decode_request,
    encode_request,
)
from embedfit.llm.ledger.store import Ledger

__all__ = [
    "SCHEMA_VERSION", "BatchJob", "Experience", "JobRecord", "Ledger", "LedgerRow", "ModelTotals", "Usage", "call_id",
    "decode_request", "encode_request",
]  # fmt: skip
