"""How the time and the memory of reading grow from one size of a file to ten times as much, format by format.

Each file is read in a process of its own; a linear reader takes about ten times as long. Prints a table and writes
JSON:

    python benchmarks/readers_growth.py [--size 300000] [--to benchmarks/results/readers_growth.json]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SENTENCE = "The circulation pump of the heater is vented through the brass screw before the first start. "
LINE = "2024-01-01 12:00:01 pump 17 started with a pressure of 3 bar and no warning\n"

#: (what is in the file, the reader's kind, the text of about n characters).
INPUTS: tuple[tuple[str, str, Callable[[int], str]], ...] = (
    ("paragraphs", "text", lambda n: (SENTENCE * 5 + "\n\n") * (n // 470)),
    ("log lines without blank lines", "text", lambda n: LINE * (n // 76)),
    ("hyphens at line ends", "text", lambda n: "abc-\n" * (n // 5)),
    ("one line", "text", lambda n: SENTENCE * (n // 94)),
    ("paragraphs", "markdown", lambda n: (f"## Part\n\n{SENTENCE * 5}\n\n") * (n // 480)),
    ("front matter of spaces", "markdown", lambda n: "---\ntitle: a" + " " * n + "b\n---\ntext"),
    ("<!-- repeated", "markdown", lambda n: "<!--" * (n // 4)),
    ("brackets", "markdown", lambda n: "[a](" * (n // 4)),
    ("paragraphs", "html", lambda n: f"<h2>Part</h2><p>{SENTENCE * 5}</p>" * (n // 490)),
    ("cells of a table", "html", lambda n: "<table>" + "<tr><td>a<td>b" * (n // 14)),
    ("<!-- repeated", "html", lambda n: "<!--" * (n // 4)),
    ("unclosed attributes", "html", lambda n: "<a b=" * (n // 5)),
    ("depth, then wrong ends", "html", lambda n: "<div>" * (n // 12) + "</p></i>" * (n // 12)),
)
_READ = """
import json, resource, sys, time
from pathlib import Path
from embedfit.corpus.readers.registry import readers
reader = readers()[sys.argv[1]].reader
Path(sys.argv[2]).with_name("small").write_text("warm")
reader.read(Path(sys.argv[2]).with_name("small"), None)  # its packages are imported
before = resource.getrusage(resource.RUSAGE_SELF)
parsed = reader.read(Path(sys.argv[2]), None)
after = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    "mib": (after.ru_maxrss - before.ru_maxrss) / 1024, "blocks": len(parsed.blocks)}))
"""


def measure(kind: str, text: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "document"
        path.write_text(text, "utf-8")
        done = subprocess.run(
            [sys.executable, "-c", _READ, kind, str(path)], capture_output=True, text=True, check=True
        )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=300_000)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "results" / "readers_growth.json")
    options = parser.parse_args()
    rows = []
    print(f"{'format':9} {'content':31} {'1x s':>7} {'10x s':>7} {'1x MiB':>7} {'10x MiB':>8}")
    for name, kind, make in INPUTS:
        once, tenfold = (measure(kind, make(size)) for size in (options.size, 10 * options.size))
        rows.append({"format": kind, "content": name, "size": options.size, "once": once, "tenfold": tenfold})
        print(
            f"{kind:9} {name:31} {once['seconds']:7.2f} {tenfold['seconds']:7.2f} "
            f"{once['mib']:7.0f} {tenfold['mib']:8.0f}"
        )
    options.to.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
