"""Calls at once: what an interruption at any moment leaves behind."""

import queue
import threading

import pytest

from embedfit.llm.protocol import Gate, Message, Reply, Request
from embedfit.llm.transport.remote import RemoteModel

REQUESTS = [
    Request(messages=(Message(role="user", content=str(n)),), max_tokens=9, temperature=0.0, top_p=1.0)
    for n in range(5)
]


class Transport:
    provider = price_provider = model = "test"
    counts_exactly = True

    def __init__(self):
        self.sent = []

    def count_tokens(self, request):
        return 1

    def send(self, request):
        self.sent.append(request.messages[-1].content)
        return Reply(text="ok", input_tokens=1, output_tokens=1)

    def close(self):
        pass


class Counting(Gate):
    """A gate that Ctrl-C reaches in the admission of one call, before or after it took note of the call."""

    def __init__(self, at, noted):
        self.at, self.noted = at, noted
        self.open = set()
        self.lock = threading.Lock()

    def admit(self, index):
        if index == self.at and not self.noted:
            raise KeyboardInterrupt
        self.open.add(index)
        if index == self.at:
            raise KeyboardInterrupt
        return True

    def received(self, index, reply):
        with self.lock:
            self.open.remove(index)

    def returned(self, index):
        with self.lock:
            self.open.discard(index)


@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("at", [0, 2])
def test_an_interruption_leaves_no_call_counted_that_was_never_sent(at, noted):
    transport, gate = Transport(), Counting(at, noted)
    with pytest.raises(KeyboardInterrupt):
        list(RemoteModel(transport).complete_through(REQUESTS, gate))
    assert not gate.open
    assert str(at) not in transport.sent


class _TakenAway(queue.SimpleQueue):
    """A queue from which Ctrl-C takes the first thing that is got."""

    taken = False

    def get(self, *args, **kwargs):
        found = super().get(*args, **kwargs)
        if not self.taken:
            self.taken = True
            raise KeyboardInterrupt
        return found


@pytest.mark.timeout(60)
def test_an_end_that_an_interruption_took_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("embedfit.llm.transport.remote.queue.SimpleQueue", _TakenAway)
    transport = Transport()
    with pytest.raises(KeyboardInterrupt):
        list(RemoteModel(transport, grace_s=1000.0).complete(REQUESTS))
    assert transport.sent
