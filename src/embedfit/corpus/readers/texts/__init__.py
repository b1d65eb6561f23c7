"""Readers of formats that are text."""
