"""The choice of the retriever that ships: candidates, evidence, and a gate."""
