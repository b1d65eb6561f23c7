import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedfit.errors import EmbedfitError, InputError, SchemaMismatch
from embedfit.llm.ledger import (
    BatchJob,
    JobRecord,
    Ledger,
    call_id,
    decode_request,
    encode_request,
)
from embedfit.llm.protocol import Message, Reply, Request
from embedfit.progress import Silent
from embedfit.testing.fake_openai import FakeOpenAi
from embedfit.testing.language_service import Behaviour

REPLY = Reply(text="a reply", input_tokens=12, output_tokens=3)


def request(text="a passage", **changes):
    return Request(messages=(Message(role="user", content=text),), max_tokens=40, **changes)


def put(ledger, number, *, usd=0.01, run="r", model="m", text=None):
    asked = request(f"passage {number}")
    key = call_id("p", model, asked)
    ledger.put(
        key,
        "p",
        model,
        asked,
        Reply(text=text or f"reply {number}", input_tokens=10, output_tokens=2),
        usd=usd,
        run=run,
    )
    return key


# --- replies


def test_a_reply_is_found_by_what_was_asked(ledger):
    key = put(ledger, 1)
    assert ledger.find([key, "unknown"]) == {key: Reply(text="reply 1", input_tokens=10, output_tokens=2)}


def test_the_first_reply_stays(ledger):
    key = put(ledger, 1)
    assert put(ledger, 1, text="another", usd=0.02) == key
    assert ledger.find([key])[key].text == "reply 1"
    assert ledger.spent("r") == pytest.approx(0.03)  # the second was paid for too


def test_keys_are_what_they_have_always_been():
    """A change here makes every user pay again for everything."""
    asked = Request(
        messages=(Message(role="system", content="Sé breve"), Message(role="user", content="¿Qué?")),
        max_tokens=40,
        temperature=1,
        stop=("\n",),
        seed=3,
    )
    assert call_id("bedrock", "meta.llama3-3-70b-instruct-v1:0", asked) == "037c407281a9b661407ad4293a0ce55a"


texts = st.text(st.characters(codec=None), max_size=30)


@given(
    roles=st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), texts), min_size=1, max_size=4),
    temperature=st.floats(0, 2),
    stop=st.lists(texts, max_size=3),
    seed=st.integers(-(2**40), 2**40),
)
def test_a_request_survives_the_ledger(roles, temperature, stop, seed):
    asked = Request(
        messages=tuple(Message(role=role, content=content) for role, content in roles),
        max_tokens=7,
        temperature=temperature,
        stop=tuple(stop),
        seed=seed,
    )
    assert decode_request(encode_request(asked)) == asked
    assert call_id("p", "m", asked) == call_id("p", "m", decode_request(encode_request(asked)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(text=texts)
def test_any_text_can_be_kept(ledger, text):
    asked = request(text)
    key = call_id("p", "m", asked)
    ledger.put(key, "p", "m", asked, Reply(text=text, input_tokens=1, output_tokens=1))
    assert ledger.find([key])[key].text == text.encode("utf-8", "replace").decode()


def test_it_is_for_the_user_alone(tmp_path):
    with Ledger(tmp_path / "new" / "ledger.sqlite") as ledger:
        put(ledger, 1)
        assert [path.stat().st_mode & 0o077 for path in (tmp_path / "new").iterdir()] == [0, 0, 0]


def test_it_is_a_sqlite_file_in_wal_mode(ledger):
    put(ledger, 1)
    with sqlite3.connect(ledger.path) as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert plain.execute("SELECT text FROM calls").fetchall() == [("reply 1",)]
    plain.close()


def test_what_thousands_of_prompts_share_is_kept_once(ledger):
    examples = tuple(Message(role=role, content="an example " * 1000) for role in ("user", "assistant"))
    for number in range(200):
        asked = Request(messages=(*examples, Message(role="user", content=f"passage {number}")), max_tokens=40)
        ledger.put(call_id("p", "m", asked), "p", "m", asked, REPLY)
    assert [row.request.messages for row in ledger.rows(limit=1)] == [asked.messages]
    assert ledger.path.stat().st_size < 200 * 2000


def test_threads_share_it(ledger):
    def work(first):
        for number in range(first, first + 40):
            put(ledger, number % 100)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(0, 160, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(total.calls for total in ledger.totals()) == 100


# --- money in flight, and whose turn it is to pay


def test_a_call_in_flight_counts_as_spent_until_it_ends(ledger):
    keys = [call_id("p", "m", request(f"passage {n}")) for n in range(3)]
    for key in keys:
        ledger.sending(key, 0.5, run="r")
    assert ledger.spent("r") == 1.5
    put(ledger, 0)
    ledger.returned(keys[1])
    assert ledger.spent("r") == 0.51
    ledger.lost(keys[2])
    assert ledger.spent("r") == 0.51
    ledger.sending(keys[2], 0.5, run="r")  # another attempt: the one before may have been billed
    put(ledger, 2)
    assert ledger.spent("r") == pytest.approx(0.52)
    assert ledger.spent("another") == 0.0


def test_one_run_pays_at_a_time_and_the_other_says_that_it_waits(tmp_path):
    said, order = [], []

    class Report(Silent):
        def log(self, text):
            said.append(text)
            order.append("waits")

    def second():
        with Ledger(tmp_path / "l") as two, two.paying(Report()):
            order.append("pays")

    with Ledger(tmp_path / "l") as one:
        with one.paying(), one.paying():  # again in the same run: it is its turn already
            thread = threading.Thread(target=second)
            thread.start()
            while not said:
                time.sleep(0.01)
            order.append("ends")
        thread.join()
    assert order == ["waits", "ends", "pays"]
    assert said == [f"Another run is paying from {tmp_path / 'l'}; waiting for its end"]


def test_who_rests_lets_others_pay_and_takes_its_turn_again(tmp_path):
    with Ledger(tmp_path / "l") as one, Ledger(tmp_path / "l") as two:
        with one.paying():
            with one.resting(Silent()), two.paying():
                two.sending("a", 0.25, run="r")
            assert two.spent("r") == 0.25
        with one.resting(Silent()), two.paying():  # who is not paying has no turn to take again
            pass
        with two.paying():
            pass


def test_a_resting_run_that_is_stopped_keeps_nobody_waiting(tmp_path):
    with Ledger(tmp_path / "l") as one, Ledger(tmp_path / "l") as two:
        with pytest.raises(KeyboardInterrupt), one.paying(), one.resting(Silent()):
            raise KeyboardInterrupt
        with two.paying():
            pass


def test_what_a_killed_process_had_in_flight_stays_spent(tmp_path):
    code = (
        "import os, sys; from embedfit.llm.ledger import Ledger\n"
        "ledger = Ledger(sys.argv[1])\n"
        "ledger.paying().__enter__(); ledger.sending('a', 0.25, run='r'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "l")], check=True)
    with Ledger(tmp_path / "l") as ledger:
        assert ledger.spent("r") == 0.25
        with ledger.paying():
            ledger.sending("a", 0.5, run="r")
            assert ledger.spent("r") == 0.75
            ledger.returned("a")
        assert ledger.spent("r") == 0.25


def test_a_ledger_of_an_earlier_edition_keeps_its_replies_and_its_money(tmp_path):
    """Its claims name the process that made them, and when they end."""
    with Ledger(tmp_path / "l") as ledger:
        key = put(ledger, 1, usd=0.5)
    plain = sqlite3.connect(tmp_path / "l")
    plain.execute("INSERT INTO claims VALUES ('a', 'host:123:abc', 'r', 0.25, 9e9)")
    plain.execute("INSERT INTO doubts VALUES ('r', 0.125, 'killed or hung', '2026-01-01')")
    plain.commit()
    plain.close()
    with Ledger(tmp_path / "l") as ledger, ledger.paying():
        assert ledger.spent("r") == 0.875
        assert ledger.find([key])[key].text == "reply 1"


# --- reports


def test_usage_totals_rows_and_export(ledger, tmp_path):
    keys = [put(ledger, number, model="m" if number % 2 else "n") for number in range(7)]
    usage = ledger.usage_of([*keys[:3], keys[0], "unknown"])
    assert (usage.calls, usage.input_tokens, usage.output_tokens) == (3, 30, 6)
    assert usage.usd == pytest.approx(0.03)
    assert [(total.model, total.calls) for total in ledger.totals()] == [("m", 3), ("n", 4)]
    provider = ledger.totals()[0].provider
    assert ledger.models_of([*keys, "unknown"]) == (f"{provider}:m", f"{provider}:n")
    assert ledger.models_of(keys[1:2]) == (f"{provider}:m",)
    assert ledger.models_of([]) == ()
    assert [row.call_id for row in ledger.rows()] == keys
    assert [row.reply.text for row in ledger.rows(limit=2)] == ["reply 5", "reply 6"]
    assert [row.reply.text for row in ledger.rows(model="m", limit=2)] == ["reply 3", "reply 5"]
    assert ledger.export(tmp_path / "out.jsonl", model="n") == 4
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["reply"]["text"] for line in lines] == ["reply 0", "reply 2", "reply 4", "reply 6"]
    assert lines[0]["request"]["messages"] == [{"role": "user", "content": "passage 0"}]


def test_thousands_of_keys_at_once(ledger):
    keys = {put(ledger, number, usd=0.0) for number in range(1200)}
    assert set(ledger.find([*keys, *(f"x{n}" for n in range(5000))])) == keys
    assert len(list(ledger.rows())) == 1200
    assert ledger.usage_of(keys).calls == 1200


def test_experience_needs_some_calls(ledger):
    for number in range(19):
        put(ledger, number)
    assert ledger.experience("p", "m") is None
    put(ledger, 19)
    experience = ledger.experience("p", "m")
    assert experience.output_tokens == 2
    assert 0.05 < experience.input_tokens_per_character < 0.2


def test_jobs_are_remembered_until_they_end(ledger):
    job = BatchJob(
        name="j", provider="p", model="m", arn="", input_uri="s3://b/i", output_uri="s3://b/o/", state="creating",
        run="r", created="2026-01-01",
    )  # fmt: skip
    ledger.add_job(
        job, [JobRecord(record_id="R1", call_id="a", usd=0.5), JobRecord(record_id="R2", call_id="b", usd=0.25)]
    )
    assert ledger.open_jobs("p", "m") == [job]
    assert ledger.in_open_jobs(["a", "c"], "r") == {"a": 0.5}
    assert ledger.in_open_jobs(["a", "c"], "other") == {"a": 0.0}
    assert ledger.spent("r") == 0.75
    ledger.update_job("j", state="open", arn="arn:1")
    assert ledger.open_jobs("p", "m")[0].arn == "arn:1"
    ledger.update_job("j", state="Completed")
    assert (ledger.open_jobs("p", "m"), ledger.spent("r")) == ([], 0.0)


# --- errors for people


def test_a_file_that_is_no_ledger(tmp_path):
    (tmp_path / "l").write_bytes(b"this is not a database, and longer than a header of one hundred bytes " * 3)
    with pytest.raises(InputError, match="damaged or not a ledger") as caught:
        Ledger(tmp_path / "l")
    assert "--ledger" in caught.value.remedy


def test_a_damaged_ledger(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        for number in range(300):
            put(ledger, number, usd=0.0)
    content = bytearray((tmp_path / "l").read_bytes())
    content[4096 : len(content) - 4096] = b"\xff" * (len(content) - 8192)
    (tmp_path / "l").write_bytes(content)
    with pytest.raises(InputError, match="damaged"), Ledger(tmp_path / "l") as ledger:
        list(ledger.rows())


def test_a_ledger_of_another_version(tmp_path):
    Ledger(tmp_path / "l").close()
    plain = sqlite3.connect(tmp_path / "l")
    plain.execute("PRAGMA user_version = 99")
    plain.close()
    with pytest.raises(SchemaMismatch, match="version 99"):
        Ledger(tmp_path / "l")


def test_a_ledger_that_something_holds(tmp_path):
    with Ledger(tmp_path / "l", busy_s=0.1) as ledger:
        plain = sqlite3.connect(tmp_path / "l", isolation_level=None)
        plain.execute("BEGIN IMMEDIATE")
        with pytest.raises(EmbedfitError, match="held by another program"):
            put(ledger, 1)
        plain.execute("ROLLBACK")
        plain.close()
        key = put(ledger, 1)
        assert key in ledger.find([key])


def test_a_full_disk_loses_nothing_that_was_there(tmp_path):
    with Ledger(tmp_path / "l") as ledger:
        kept = put(ledger, 1)
        for connection in (ledger._paid, ledger._free):  # SQLite's own stand-in for a disk of so many pages
            connection.execute("PRAGMA max_page_count = 24")
        with pytest.raises(EmbedfitError, match="is full") as caught:
            for number in range(2, 200):
                put(ledger, number, text="x" * 2000)
        assert "Free some space" in caught.value.remedy
        assert kept in ledger.find([kept])
        for connection in (ledger._paid, ledger._free):
            connection.execute("PRAGMA max_page_count = 100000")
        again = put(ledger, 500)
        assert again in ledger.find([again])


def test_a_folder_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((EmbedfitError, OSError)):
        Ledger(tmp_path / "file" / "ledger.sqlite")
    with pytest.raises(EmbedfitError):
        Ledger(tmp_path)


# --- two at once, and killed


@pytest.mark.parametrize("count", [120])
def test_two_processes_at_once_pay_once(tmp_path, count):
    with FakeOpenAi(Behaviour(latency_s=0.02)) as service:
        runs = [_start(tmp_path / "l", service, count) for _ in range(2)]
        outputs = [run.communicate(timeout=60)[0] for run in runs]
        assert [output.split()[-1] for output in outputs] == [str(count)] * 2
        assert Counter(service.paid()) == {f"passage {n}": 1 for n in range(count)}


def _start(ledger, service, count):
    script = Path(__file__).with_name("ask_all.py")
    command = [sys.executable, str(script), str(ledger), service.base_url, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _kill_at_random(tmp_path, times, count):
    rng = random.Random(times)
    ledger = tmp_path / "l"
    allowed: Counter = Counter()
    with FakeOpenAi(Behaviour(latency_s=0.03)) as service:
        for _ in range(times):
            run = _start(ledger, service, count)
            assert run.stdout.readline() == "ready\n"
            time.sleep(rng.uniform(0.0, 0.03 * count / 8 / times * 2))
            before = len(service.seen)
            run.send_signal(signal.SIGKILL)
            run.communicate()
            time.sleep(0.05)  # what it had sent is answered, to nobody
            with Ledger(ledger) as opened:
                kept = {row.request.messages[0].content for row in opened.rows()}
            sent = service.paid()
            in_flight = [key for key in set(sent) if key not in kept]
            assert len(in_flight) <= 8, (before, len(sent))
            allowed.update(in_flight)
        run = _start(ledger, service, count)
        assert run.communicate(timeout=120)[0].split()[-1] == str(count)
        paid = Counter(service.paid())
    assert set(paid) == {f"passage {n}" for n in range(count)}
    # a call was repeated only if a kill caught it in flight, and only once for each such kill
    assert all(paid[key] <= 1 + allowed[key] for key in paid)
    with Ledger(ledger) as opened:
        rows = list(opened.rows())
        assert sorted(row.reply.text for row in rows) == sorted(f"PASSAGE {n}" for n in range(count))
        # what may have been billed to a killed run counts as spent
        billed = sum(row.usd for row in rows) + sum((paid[key] - 1) for key in paid) * 5e-6
        assert opened.spent("killed") >= billed - 1e-12


def test_killed_5_times_nothing_is_lost_and_nothing_repeated(tmp_path):
    _kill_at_random(tmp_path, 5, 200)


@pytest.mark.slow
def test_killed_50_times_nothing_is_lost_and_nothing_repeated(tmp_path):
    _kill_at_random(tmp_path, 50, 2500)


def test_interrupted_it_ends_in_time_and_keeps_what_arrived(tmp_path):
    with FakeOpenAi(Behaviour(latency_s=0.1)) as service:
        run = _start(tmp_path / "l", service, 5000)
        assert run.stdout.readline() == "ready\n"
        while len(service.seen) < 20:
            time.sleep(0.01)
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=30)
        assert run.returncode != 0
        with Ledger(tmp_path / "l") as ledger:
            assert {row.request.messages[0].content for row in ledger.rows()} == set(service.paid())
            assert ledger.spent("killed") == pytest.approx(sum(row.usd for row in ledger.rows()))


class _Interrupted:
    """A connection on which Ctrl-C is raised once, after a statement that begins with a word was executed."""

    def __init__(self, connection, word):
        self.connection, self.word = connection, word

    def execute(self, sql, parameters=()):
        found = self.connection.execute(sql, parameters)
        if self.word and sql.startswith(self.word):
            self.word = ""
            raise KeyboardInterrupt
        return found

    def close(self):
        self.connection.close()


@pytest.mark.parametrize("word", ["BEGIN", "DELETE", "COMMIT"])
def test_ctrl_c_leaves_neither_a_lock_nor_a_transaction_behind(ledger, word):
    ledger.sending("a", 0.25)
    ledger._free = _Interrupted(ledger._free, word)
    with pytest.raises(KeyboardInterrupt) as held:  # its traceback keeps alive whatever was interrupted
        ledger.returned("a")
    other = threading.Thread(target=put, args=(ledger, 1), daemon=True)
    other.start()
    other.join(timeout=30)
    assert not other.is_alive() and held.tb
    assert len(list(ledger.rows())) == 1
