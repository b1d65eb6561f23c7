"""A run that the kill tests kill: asks a server for N passages through the ledger. ask_all.py LEDGER BASE_URL N."""

import signal
import sys
from contextlib import closing

from embedfit.llm.ledger import Ledger
from embedfit.llm.metered import LedgeredModel
from embedfit.llm.prices import Price, Prices
from embedfit.llm.protocol import Message, Request
from embedfit.llm.providers.openai import transport as openai
from embedfit.llm.transport.remote import RemoteModel
from embedfit.llm.transport.throttle import Throttle


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts in the background may inherit deafness to it
    path, base_url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    requests = [Request(messages=(Message(role="user", content=f"passage {n}"),), max_tokens=50) for n in range(count)]
    client, _ = openai.connect(base_url, "")
    prices = Prices((Price(provider="openai@private", model="*", input=1.0, output=1.0),))  # money: every commit counts
    with client, Ledger(path) as ledger:
        model = RemoteModel(openai.OpenAiTransport(client, "fake-chat"), throttle=Throttle(max_concurrency=8, start=8))
        metered = LedgeredModel(model, ledger, prices, run="killed")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        with closing(metered.complete(requests)) as answers:  # ends the calls before the ledger closes, as the product
            texts = [reply.text for _, reply, _ in answers]
        sys.stdout.write(f"{len(texts)}\n")


if __name__ == "__main__":
    main()
