"""The order in which requests are computed."""
