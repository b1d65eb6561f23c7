"""The container's side: the run folder put in place, the ledger's copies, the reason of a failure, an interruption."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from embedfit.deploy.jobs.container import Container
from embedfit.deploy.jobs.layout import LISTED, Job, job_json
from embedfit.llm.ledger import Ledger
from embedfit.llm.protocol import Message, Reply, Request

#: Stands for `python -m embedfit run --run DIR …`: writes a passage and a reply, then does as its word says.
FAKE = """
import os, pathlib, sys, time
from embedfit.llm.ledger import Ledger
from embedfit.llm.protocol import Message, Reply, Request
word, run = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index("--run") + 1])
(run / "passages.jsonl").write_text("{}")
with Ledger(pathlib.Path(os.environ["EMBEDFIT_HOME"]) / "ledger.sqlite") as ledger:
    reply = Reply(text="a query", input_tokens=1, output_tokens=1)
    request = Request(messages=(Message(role="user", content="x"),), max_tokens=1)
    ledger.put("key", "fake", "m", request, reply, usd=0.5, run=str(run))
    print("wrote", file=sys.stderr, flush=True)
    if word == "fail":
        print("error: the model has NaN weights. password=hunter2", file=sys.stderr)
        sys.exit(1)
    if word == "wait":
        time.sleep(60)
"""


def container(root: Path, word: str, *, place: str = "_/_/run", secrets: dict[str, str] | None = None) -> Container:
    channel = root / "input" / "data" / "embedfit"
    if not channel.exists():
        channel.mkdir(parents=True)
        job = Job(
            version="0", wheel="x.whl", extras="", run=place, settings={"model": "minilm", "docs": ["../docs"]},
            places={"../docs": "files/home/docs"}, arguments=("--nproc", "2"), secrets=secrets or {},
        )  # fmt: skip
        (channel / "job.json").write_bytes(job_json(job))
        (channel / "run" / "merged").mkdir(parents=True)
        (channel / "run" / "merged" / "config.json").write_text("{}")
    script = root / "fake.py"
    script.write_text(FAKE)
    return Container(root, command=(sys.executable, str(script), word), every=0.2)


def replies(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM calls").fetchone()[0])


def test_a_run_is_put_in_place_and_its_files_are_listed_with_their_hashes(tmp_path: Path) -> None:
    made = container(tmp_path, "well")
    assert made.main() == 0
    listing = LISTED.validate_json((made.kept / "files.json").read_bytes())
    assert listing.code == 0
    assert set(listing.files) == {"passages.jsonl", "merged/config.json"}
    assert all(len(digest) == 64 for digest in listing.files.values())
    assert replies(made.kept / "ledger.sqlite") == 1
    settings = (made.run / "embedfit.toml").read_text()
    assert f'"../docs" = "{made.inputs}/files/home/docs"' in settings
    assert not (tmp_path / "output" / "failure").exists()


def test_a_failure_leaves_its_reason_without_secrets(tmp_path: Path) -> None:
    made = container(tmp_path, "fail")
    assert made.main() == 1
    said = (tmp_path / "output" / "failure").read_text()
    assert "NaN weights" in said and "hunter2" not in said and len(said) <= 1024
    assert LISTED.validate_json((made.kept / "files.json").read_bytes()).code == 1


def test_an_interrupted_job_has_its_paid_replies_and_goes_on(tmp_path: Path) -> None:
    made = container(tmp_path, "wait")
    code = (
        "import sys; from pathlib import Path; from embedfit.deploy.jobs.container import Container; "
        f"sys.exit(Container(Path({str(tmp_path)!r}), command={made.command!r}, every=0.2).main())"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and "wrote" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) != 0
    assert replies(made.kept / "ledger.sqlite") == 1
    listing = json.loads((made.kept / "files.json").read_text())
    assert "passages.jsonl" in listing["files"]
    # Another machine: only the checkpoints came back, with a file that was deleted before the interruption.
    (made.home / "ledger.sqlite").unlink()
    (made.run / "queries.jsonl").write_text("deleted by then")
    again = container(tmp_path, "well")
    assert again.main() == 0
    assert not (again.run / "queries.jsonl").exists()
    assert replies(again.kept / "ledger.sqlite") == 1


def test_the_ledger_s_copy_is_whole_at_every_instant(tmp_path: Path) -> None:
    made = container(tmp_path, "well")
    made._prepare()
    request = Request(messages=(Message(role="user", content="x"),), max_tokens=1)
    with Ledger(made.home / "ledger.sqlite") as ledger:
        for number in range(8):
            ledger.put(str(number), "fake", "m", request, Reply(text="q", input_tokens=1, output_tokens=1), run="r")
            time.sleep(0.002)
            made._keep()
            assert replies(made.kept / "ledger.sqlite") == number + 1  # copied while it is open for writing
