"""A reporter that keeps what is said."""

from __future__ import annotations

from embedfit.progress import Silent


class Said(Silent):
    """lines: the messages, in their order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        """Keep a message."""
        self.lines.append(message)

    @property
    def text(self) -> str:
        """All messages, a line each."""
        return "\n".join(self.lines)
