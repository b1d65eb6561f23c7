"""Every language-model reply, durable before it is used: see `store`."""

from embedfit.llm.ledger.rows import (
    Experience,
    Job,
    JobRecord,
    LedgerRow,
    ModelTotals,
    Usage,
    call_id,
    decode_request,
    encode_request,
)
from embedfit.llm.ledger.store import LEASE_S, OPEN_STATES, SCHEMA_VERSION, Ledger

__all__ = [
    "LEASE_S",
    "OPEN_STATES",
    "SCHEMA_VERSION",
    "Experience",
    "Job",
    "JobRecord",
    "Ledger",
    "LedgerRow",
    "ModelTotals",
    "Usage",
    "call_id",
    "decode_request",
    "encode_request",
]
