"""Language models: the protocol, its providers and the ledger of paid calls."""
