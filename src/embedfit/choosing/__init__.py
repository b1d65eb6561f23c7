"""Which retriever ships: candidates, evidence, and the gate between them."""
