"""A run that a test kills: writes N replies with a GGUF file through the ledger. write_all.py LEDGER FILE N."""

import sys

from embedfit.llm.ledger import Ledger
from embedfit.llm.metered import LedgeredModel
from embedfit.llm.prices import Prices
from embedfit.llm.protocol import Message, Request
from embedfit.llm.providers.openvino import OpenVinoGenerator


def main() -> None:
    path, file, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    requests = [
        Request(messages=(Message(role="user", content=f"passage {n}"),), max_tokens=10 + n, seed=n)
        for n in range(count)
    ]
    model = OpenVinoGenerator(file)
    with Ledger(path) as ledger:
        for index, reply, _ in LedgeredModel(model, ledger, Prices(()), run="killed").complete(requests):
            sys.stdout.write(f"{index} {reply.text!r}\n")
            sys.stdout.flush()
    sys.stdout.write(f"asked {model._asked}\n")


if __name__ == "__main__":
    main()
