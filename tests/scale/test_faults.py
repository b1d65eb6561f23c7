"""Faults of a cluster. After each, the results are those of this process alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import embedfit
from embedfit.errors import EmbedfitError
from embedfit.llm.ledger import Ledger
from embedfit.models.local import LocalModel
from embedfit.models.store.vectors import VectorStore
from embedfit.progress import Silent, Task
from embedfit.retrieval.topk import top_k
from embedfit.runtime import Runtime
from embedfit.scale.executor import Executor
from embedfit.scale.inline import Inline
from embedfit.scale.ray import Ray
from embedfit.testing.fake_openai import FakeOpenAi
from embedfit.testing.language_service import Ask, Behaviour
from tests.scale.work import Opened, blown_up, square
from tests.training.conftest import WORDS

# Both sides of a comparison have one thread, as a worker of one core has.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def test_a_node_that_is_taken_away_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    taking_away: list[threading.Thread] = []
    found = {}
    for number, result in Ray(cluster.address, 2).map(slowly, range(24), state=Opened(tmp_path)):
        found[number] = result
        if len(found) == 4:
            gone = threading.Thread(target=cluster.remove_node, args=(nodes[0],), kwargs={"allow_graceful": False})
            taking_away.append(gone)
            gone.start()
    taking_away[0].join()
    assert found == {number: number**2 for number in range(24)}
    begun = sum(path.stat().st_size for path in tmp_path.glob("begun-*"))
    assert 24 <= begun <= 26, "what was done is not done again"


def slowly(folder: Path, shard: int, tell: Callable[[float], None]) -> int:
    time.sleep(0.25)
    return square(folder, shard, tell)


#: The smallest object store that Ray starts with.
SMALLEST = 75 << 20
LARGER = SMALLEST + (1 << 20)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("cluster", [{"object_store_memory": SMALLEST}], indirect=True)
def test_results_larger_than_the_object_store_come_through_it(cluster: Any, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=2, object_store_memory=SMALLEST)
    shards = [LARGER, 7, LARGER + 1, LARGER + 2]
    there = Ray(cluster.address, 2).map(blown_up, shards, state=Opened(tmp_path))
    found = {number: sha256(result).hexdigest() for number, result in there}
    here = Inline().map(blown_up, shards, state=Opened(tmp_path))
    assert found == {number: sha256(result).hexdigest() for number, result in here}


FULL_DISK = {"local_fs_capacity_threshold": 0.0}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("cluster", [{"object_store_memory": SMALLEST, "_system_config": FULL_DISK}], indirect=True)
def test_a_result_without_room_names_its_shard_and_lets_the_others_finish(cluster: Any, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=2, object_store_memory=SMALLEST)
    found = {}
    with pytest.raises(EmbedfitError, match=rf"^{LARGER}: its result has no room on its node") as caught:
        for number, result in Ray(cluster.address, 2).map(blown_up, [7, LARGER, 300_000, 9], state=Opened(tmp_path)):
            found[number] = len(result)
    assert found == {0: 7, 2: 300_000, 3: 9}
    assert "--object-store-memory" in (caught.value.remedy or "")


class Once:
    """Does something after the first shard."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act: Callable[[], None] | None = act

    def __call__(self) -> None:
        act, self.act = self.act, None
        if act is not None:
            act()


class After(Silent):
    """A display that does something after the first chunk of texts is encoded."""

    def __init__(self, once: Once) -> None:
        self.once = once

    @contextmanager
    def task(self, description: str, total: float, unit: str = "") -> Iterator[Task]:
        """The task of `description`."""
        once = self.once

        class Counted:
            def advance(self, amount: float = 1, note: str = "") -> None:
                if amount:
                    once()

        yield Counted()


def records(count: int) -> list[str]:
    return [f"part {number} " + " ".join(WORDS[: 1 + number % len(WORDS)]) for number in range(count)]


def test_a_node_is_taken_away_in_encode_and_another_in_mine(cluster: Any, tiny_bert: Path, tmp_path: Path) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    model, texts, queries = LocalModel("base", tiny_bert), records(3_000), records(200)

    def take(node: Any) -> Callable[[], None]:
        return lambda: cluster.remove_node(node, allow_graceful=False)

    def found(folder: str, executor: Executor, lost: tuple[Callable[[], None], ...]) -> list[bytes]:
        store, acts = VectorStore(tmp_path / folder, executor=executor), [Once(act) for act in lost]
        passages = store.stored(model, texts, is_query=False, report=After(acts[0]))
        if lost[1] is not nothing:
            cluster.add_node(num_cpus=1)
        asked = store.embed(model, queries, is_query=True)
        ids, scores = top_k(asked, passages, 20, block=250, executor=executor, tell=lambda _: acts[1]())
        return [passages[:].tobytes(), asked.tobytes(), ids.tobytes(), scores.tobytes()]

    def nothing() -> None:
        pass

    there = found("there", Ray(cluster.address, 2), (take(nodes[0]), take(nodes[1])))
    assert there == found("here", Inline(), (nothing, nothing))


#: What a stage's manifest says that two equal runs differ in: when the stage ended, and how long it took.
OF_THE_MOMENT = ("seconds", "finished")


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of files by name; of a stage's manifest all but its times."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    for name in [name for name in found if name.endswith(".manifest.json")]:
        manifest = json.loads(found[name])
        for key in OF_THE_MOMENT:
            del manifest[key]
        found[name] = json.dumps(manifest).encode()
    return found


def corpus_of(folder: Path, count: int) -> Path:
    """A corpus file of records."""
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(f'{{"_id": "r{n}", "text": "{text}"}}\n' for n, text in enumerate(records(count))))
    return corpus


ON_RAY = ("--ray", "local", "--workers", "2")


def driver(home: Path, *words: str) -> subprocess.Popen[bytes]:
    """A command of embedfit, begun, in one thread. home: what is its own, its ledger and its vectors."""
    own = {"EMBEDFIT_HOME": str(home), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **own}
    return subprocess.Popen([sys.executable, "-m", "embedfit", *words], env=environment, stderr=subprocess.PIPE)


def killed(first: subprocess.Popen[bytes], is_time: Callable[[], bool]) -> None:
    """Kill a driver as soon as it is time."""
    try:
        until = time.monotonic() + 800
        while not is_time():
            assert first.poll() is None and time.monotonic() < until, "the first driver works until it is killed"
            time.sleep(0.02)
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()


def done(process: subprocess.Popen[bytes]) -> bytes:
    """What a driver said that ends well."""
    _, said = process.communicate(timeout=1000)
    assert process.returncode == 0, said[-2000:]
    return said


@pytest.mark.timeout(2000)
def test_the_driver_is_killed_and_its_command_given_again(tiny_bert: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    corpus, home = corpus_of(tmp_path, 3_000), tmp_path / "theirs"
    target = ("--to-folder", str(tmp_path / "there"))
    command = ("index", str(corpus), "--model", str(tiny_bert), *target, "--no-tokens", *ON_RAY)
    killed(driver(home, *command), lambda: bool(list(home.rglob("*.shard"))))
    said = done(driver(home, *command))
    known = re.search(rb"([\d,]+) known", said)
    assert known and 0 < int(known[1].replace(b",", b"")) < 3_000, said[-2000:]
    embedfit.index_documents([corpus], folder=tmp_path / "here", model=str(tiny_bert), tokens=False)
    there, here = (files_of(tmp_path / name) for name in ("there", "here"))
    assert there.keys() == here.keys() and {"ingest.manifest.json", "passages.jsonl"} < here.keys()
    assert [name for name in here if here[name] != there[name]] == []


def asking_anew(ask: Ask) -> str:
    """A query in each style that the call asks for; no other call gets the same."""
    name = sha256(f"{ask.system} {ask.key}".encode()).hexdigest()[:12]
    styles = [line[2:].split(":")[0] for line in ask.key.splitlines() if line.startswith("- ")]
    return json.dumps([{"style": style, "query": f"what the {name} says as {style}"} for style in styles])


@pytest.mark.timeout(2000)
def test_a_driver_killed_while_it_pays_pays_for_each_call_once(tiny_bert: Path, tmp_path: Path) -> None:
    """Encoding is Ray's; the ledger has one owner, this machine. What the kill catches in flight may be sent again."""
    pytest.importorskip("ray")
    corpus = corpus_of(tmp_path, 80)

    def writing(service: FakeOpenAi, home: Path, *how: str) -> subprocess.Popen[bytes]:
        """Write queries of the passages, which lie in the run folder already."""
        if not (home / "run").exists():
            embedfit.run(corpus, run=home / "run", settings={"model": str(tiny_bert)}, until="ingest")
        writer = f"openai:{service.base_url}#fake-chat"
        return driver(home, "generate", "--run", str(home / "run"), "--generator", writer, "--yes", *how)

    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    with FakeOpenAi(Behaviour(answer=asking_anew, latency_s=0.1)) as service:
        killed(writing(service, theirs, *ON_RAY), lambda: len(service.seen) >= 40)
        time.sleep(0.3)  # what it had sent is answered, to nobody
        with Ledger(next(theirs.rglob("ledger.sqlite"))) as ledger:
            kept = len(list(ledger.rows()))
        sent, most = len(service.paid()), service.most_in_flight
        assert 0 < kept <= sent <= kept + most
        done(writing(service, theirs, *ON_RAY))
        paid = len(service.paid())
        done(writing(service, mine))
        calls = len(service.paid()) - paid
    assert paid - (sent - kept) == calls > 80
    assert (theirs / "run" / "queries.jsonl").read_bytes() == (mine / "run" / "queries.jsonl").read_bytes()


def test_a_poisoned_document_is_skipped_wherever_it_is_read(tiny_bert: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(12):
        (docs / f"{number}.md").write_text(f"# Part {number}\n\n" + f"The {WORDS[number]} part of a machine. " * 12)
    (docs / "broken.pdf").write_bytes(b"%PDF-1.7\n" + bytes(2_000))
    (docs / "no text.docx").write_bytes(b"PK" + bytes(100))
    found = []
    try:
        for name, executor in (("here", Inline()), ("there", Ray("local", 2))):
            run = tmp_path / name
            settings = {"model": str(tiny_bert)}
            embedfit.run(docs, run=run, settings=settings, until="ingest", runtime=Runtime(executor=executor))
            files = ("documents.jsonl", "passages.jsonl", "dropped_passages.jsonl", "metadata.jsonl")
            found.append([(run / one).read_bytes() for one in files])
    finally:
        ray.shutdown()
    assert found[0] == found[1] and found[0][0].count(b'"skipped"') == 2
