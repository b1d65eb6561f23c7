"""The money that a run may still spend."""

from __future__ import annotations

import threading


class Budget:
    """USD that may still be spent, counting calls in flight. Thread-safe. limit: None for no limit."""

    def __init__(self, limit: float | None, spent: float = 0.0) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._spent = spent
        self._reserved: dict[str, float] = {}
        self._in_flight = 0.0

    @property
    def spent(self) -> float:
        """USD that were spent, without calls in flight."""
        return self._spent

    def reserve(self, key: str, usd: float) -> bool | None:
        """Set money aside for a call: True. None if calls in flight may still free enough; False if they can't."""
        with self._lock:
            if self.limit is not None and self._spent + self._in_flight + usd > self.limit + 1e-9:
                return None if self._reserved else False
            self._reserved[key] = usd
            self._in_flight += usd
            return True

    def adopt(self, key: str, usd: float) -> None:
        """Set money aside for a call that an earlier process sent. Until now the ledger counted it as spent."""
        with self._lock:
            self._spent -= min(usd, self._spent)
            self._reserved[key] = usd
            self._in_flight += usd

    def settle(self, key: str, usd: float | None) -> None:
        """Replace the money set aside by the call's cost. None: all of it, for the call may be billed."""
        with self._lock:
            reserved = self._reserved.pop(key, 0.0)
            # exactly zero without calls in flight, so that rounding errors don't add up
            self._in_flight = self._in_flight - reserved if self._reserved else 0.0
            self._spent += reserved if usd is None else usd
