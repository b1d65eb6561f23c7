"""Servers with OpenAI's /v1/chat/completions."""
