"""The retriever: a list of parts with weights, its index on disk, and search."""
