"""Sending many calls to a server at once: its pace, retries, and what a failed call says."""
