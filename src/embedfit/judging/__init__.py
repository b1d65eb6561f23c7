"""Whether a passage answers a query, said by a model."""
