"""Sending many calls to a server at once: pace, retries, and the errors of failed calls."""
