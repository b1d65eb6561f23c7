"""Measuring retrieval systems: the systems, the queries, the metrics, and how sure a difference is."""
