import boto3
import pytest

from embedfit.config import GenerateConfig
from embedfit.errors import BudgetExceeded, GeneratorError, UsageError
from embedfit.llm.asking import parts
from embedfit.llm.ledger import Ledger
from embedfit.llm.metered import LedgeredModel
from embedfit.llm.opening import Outside, open_model
from embedfit.llm.prices import load_prices
from embedfit.llm.protocol import Failure
from embedfit.llm.providers import bedrock, bedrock_batch
from embedfit.llm.providers.bedrock import BedrockTransport, ResolvedModel
from embedfit.llm.providers.bedrock_batch import BatchModel, BatchPlace
from embedfit.llm.transport.remote import RemoteModel
from embedfit.llm.transport.retry import CallError, RetryPolicy
from embedfit.testing.fake_bedrock import FakeBedrock

LLAMA = "meta.llama3-3-70b-instruct-v1:0"
RESOLVED = ResolvedModel(model=LLAMA, invoke_id=f"us.{LLAMA}")
PLACE = BatchPlace(s3_uri="s3://batch-bucket/some/prefix", role_arn="arn:aws:iam::123456789012:role/batch")
PRICES = load_prices()
pytestmark = pytest.mark.usefixtures("aws")


@pytest.fixture(scope="module")
def moto():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto, aws):
    client = boto3.session.Session().client("s3", region_name="us-east-1", endpoint_url=moto)
    client.create_bucket(Bucket="batch-bucket")
    yield client
    for item in client.list_objects_v2(Bucket="batch-bucket").get("Contents", []):
        client.delete_object(Bucket="batch-bucket", Key=item["Key"])
    client.delete_bucket(Bucket="batch-bucket")
    client.close()


@pytest.fixture
def batch(s3):
    """A function: fake service, ledger → BatchModel with an on-demand fallback."""
    clients = []

    def make(service, ledger, **changes):
        control, runtime = (
            bedrock.connect(name, region="us-east-1", endpoint_url=service.url)
            for name in ("bedrock", "bedrock-runtime")
        )
        clients.extend((control, runtime))
        fallback = RemoteModel(BedrockTransport(runtime, RESOLVED), retry=RetryPolicy(base_s=0.01))
        outside = Outside(ledger=ledger, run=changes.pop("run", ""))
        return BatchModel(control, s3, RESOLVED, PLACE, outside, fallback=fallback, **{"poll_s": 0.01, **changes})

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def requests(ask):
    return [ask(f"passage {n}") for n in range(106)]


EXPECTED = [(n, f"PASSAGE {n}") for n in range(106)]


def texts(answers):
    return sorted((index, outcome.text) for index, outcome, _ in answers)


def test_a_job_is_ordered_waited_for_and_joined(batch, requests, ledger, s3):
    with FakeBedrock(s3=s3) as service:
        metered = LedgeredModel(batch(service, ledger), ledger, PRICES, max_cost=1.0)
        answers = list(metered.complete(requests))
        assert texts(answers) == EXPECTED
        assert (service.jobs, len(service.batch_records), service.seen) == (1, 106, [])
        usage = ledger.usage_of([key for _, _, key in answers])
        assert usage.usd == pytest.approx((usage.input_tokens + usage.output_tokens) * 0.36e-6)  # half of on demand
        assert metered.budget.spent == pytest.approx(usage.usd)
        assert ledger.open_jobs("bedrock", LLAMA) == []
        keys = [item["Key"] for item in s3.list_objects_v2(Bucket="batch-bucket")["Contents"]]
        assert all(key.startswith("some/prefix/embedfit-") for key in keys)


def test_replies_that_were_paid_for_on_demand_are_not_ordered_in_batch(batch, requests, ledger, s3):
    with FakeBedrock(s3=s3) as service:
        model = batch(service, ledger)
        list(LedgeredModel(model.fallback, ledger, PRICES).complete(requests[:5]))
        assert texts(LedgeredModel(model, ledger, PRICES).complete(requests)) == EXPECTED
        assert sorted(service.batch_records) == sorted(f"passage {n}" for n in range(5, 106))


def test_failed_and_missing_records_are_asked_on_demand_at_its_price(batch, requests, ledger, s3):
    faults = {"passage 3": "missing", "passage 5": ("500", "internal"), "passage 8": ("429", "throttled")}
    with FakeBedrock(s3=s3, record_fault=faults.get) as service:
        metered = LedgeredModel(batch(service, ledger), ledger, PRICES)
        assert texts(metered.complete(requests)) == EXPECTED
        assert sorted(call.key for call in service.seen if call.status == 200) == sorted(faults)
        by_price = {
            round(row.usd / (row.reply.input_tokens + row.reply.output_tokens) * 1e6, 2) for row in ledger.rows()
        }
        assert by_price == {0.36, 0.72}


def test_a_record_that_is_wrong_is_a_failure(batch, requests, ledger, s3):
    with FakeBedrock(s3=s3, record_fault=lambda key: ("400", "bad") if key == "passage 7" else None) as service:
        answers = {i: out for i, out, _ in LedgeredModel(batch(service, ledger), ledger, PRICES).complete(requests)}
        assert answers.pop(7) == Failure(error="Bedrock batch: 400 bad", retryable=False)
        assert len(answers) == 105
        assert service.seen == []


@pytest.mark.parametrize("final", ["Failed", "Stopped", "Expired", "PartiallyCompleted"])
def test_whatever_a_job_ends_as_its_replies_are_kept_and_the_rest_is_asked(batch, requests, ledger, s3, final):
    with FakeBedrock(s3=s3, batch_states=("InProgress", final)) as service:
        assert texts(LedgeredModel(batch(service, ledger), ledger, PRICES).complete(requests)) == EXPECTED
        assert len(service.batch_records) + len(service.seen) == 106
        assert ledger.open_jobs("bedrock", LLAMA) == []


def test_fewer_than_a_hundred_go_on_demand(batch, requests, ledger, s3):
    with FakeBedrock(s3=s3) as service:
        answers = LedgeredModel(batch(service, ledger), ledger, PRICES).complete(requests[:99])
        assert texts(answers) == EXPECTED[:99]
        assert (service.jobs, len(service.paid())) == (0, 99)


def test_large_sets_become_several_jobs():
    sizes = [len(chunk) for chunk in bedrock_batch.chunks([str(n) for n in range(3001)], 1000)]
    assert sizes == [751, 751, 751, 748]
    assert bedrock_batch.chunks(["x"] * 99) == []


class Killed(BaseException):
    pass


def stop(seconds):
    raise Killed


def test_another_process_takes_up_what_this_one_ordered(batch, requests, tmp_path, s3):
    with FakeBedrock(s3=s3) as service:
        with Ledger(tmp_path / "l.sqlite") as first, pytest.raises(Killed):
            model = batch(service, first, sleep=stop, run="r")
            list(LedgeredModel(model, first, PRICES, run="r").complete(requests))
        with Ledger(tmp_path / "l.sqlite") as second:
            spent = second.spent("r")
            assert 0 < spent < 0.01  # an open job counts with the most that it can cost
            metered = LedgeredModel(batch(service, second, run="r"), second, PRICES, max_cost=spent, run="r")
            assert texts(metered.complete(requests)) == EXPECTED
            assert metered.budget.spent == pytest.approx(second.spent("r"))
            assert second.spent("r") == pytest.approx(metered.usage.usd)
        assert (service.jobs, len(service.batch_records), service.seen) == (1, 106, [])


def test_killed_between_the_order_and_its_receipt_nothing_is_ordered_twice(batch, requests, tmp_path, s3, monkeypatch):
    with FakeBedrock(s3=s3) as service:
        with Ledger(tmp_path / "l.sqlite") as first, monkeypatch.context() as patch:
            patch.setattr(first, "update_job", lambda *args, **kwargs: stop(0))
            with pytest.raises(Killed):
                list(LedgeredModel(batch(service, first), first, PRICES).complete(requests))
        assert service.jobs == 1
        with Ledger(tmp_path / "l.sqlite") as second:
            assert [job.state for job in second.open_jobs("bedrock", LLAMA)] == ["creating"]
            assert texts(LedgeredModel(batch(service, second), second, PRICES).complete(requests)) == EXPECTED
        assert (service.jobs, len(service.batch_records)) == (1, 106)


def test_killed_while_fetching_the_rest_is_fetched_and_not_paid_again(batch, requests, tmp_path, s3):
    with FakeBedrock(s3=s3) as service:
        with Ledger(tmp_path / "l.sqlite") as first:
            answers = LedgeredModel(batch(service, first), first, PRICES).complete(requests)
            for _ in range(40):
                next(answers)
            answers.close()
        with Ledger(tmp_path / "l.sqlite") as second:
            assert texts(LedgeredModel(batch(service, second), second, PRICES).complete(requests)) == EXPECTED
        assert (service.jobs, len(service.batch_records), service.seen) == (1, 106, [])


def test_more_passages_later_order_only_what_is_new(batch, requests, ask, tmp_path, s3):
    more = [*requests, *(ask(f"new {n}") for n in range(104))]
    with FakeBedrock(s3=s3) as service:
        with Ledger(tmp_path / "l.sqlite") as first, pytest.raises(Killed):
            list(LedgeredModel(batch(service, first, sleep=stop), first, PRICES).complete(requests))
        with Ledger(tmp_path / "l.sqlite") as second:
            answers = list(LedgeredModel(batch(service, second), second, PRICES).complete(more))
        assert len(answers) == 210
        assert (service.jobs, len(service.batch_records), len(set(service.batch_records))) == (2, 210, 210)


def test_max_cost_holds_for_jobs(batch, requests, ledger, s3):
    with FakeBedrock(s3=s3) as service:
        metered = LedgeredModel(batch(service, ledger), ledger, PRICES, max_cost=0.0003)
        answers = []
        with pytest.raises(BudgetExceeded):
            answers.extend(metered.complete(requests))
        assert ledger.spent(metered.run) <= 0.0003
        assert len(service.batch_records) + len(service.paid()) < 106


def test_from_the_settings(ledger, s3, moto, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)
    generate = {"generator": "bedrock-batch", "batch_s3_uri": PLACE.s3_uri, "batch_role_arn": PLACE.role_arn}
    with FakeBedrock(s3=s3) as service:
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK", service.url)
        monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", service.url)
        model = open_model(GenerateConfig(**generate), Outside(ledger=ledger))
        assert (model.model, model.price_provider, model.fallback.model) == (LLAMA, "bedrock-batch", LLAMA)
        with pytest.raises(GeneratorError, match="no-such-bucket can't be used"):
            open_model(GenerateConfig(**{**generate, "batch_s3_uri": "s3://no-such-bucket/x"}), Outside(ledger=ledger))
        with pytest.raises(UsageError, match="role"):
            open_model(GenerateConfig(**{**generate, "batch_role_arn": None}), Outside(ledger=ledger))
        with pytest.raises(UsageError, match="place in S3"):
            open_model(GenerateConfig(**{**generate, "batch_s3_uri": None}), Outside(ledger=ledger))


def test_a_role_that_is_refused_is_said_and_not_taken_for_an_order(batch, requests, ledger, s3):
    with FakeBedrock(s3=s3, models=()) as service:
        with pytest.raises(CallError, match="404"):
            list(LedgeredModel(batch(service, ledger), ledger, PRICES).complete(requests))
        assert ledger.open_jobs("bedrock", LLAMA) == []
        assert ledger.spent(ledger.owner) == 0


@pytest.mark.parametrize(("calls", "sizes"), [(140, [8, 16, 116]), (110, [110])])
def test_replies_of_two_dozen_come_before_a_job_where_enough_remain_for_one(batch, ledger, ask, s3, calls, sizes):
    requests = [ask(f"passage {n}") for n in range(calls)]
    with FakeBedrock(s3=s3) as service:
        model = LedgeredModel(batch(service, ledger), ledger, PRICES)
        in_turn = parts(model, requests, ["x"] * calls, free=False)
        assert [len(part) for part in in_turn] == sizes
        for part in in_turn:
            assert texts(model.complete([requests[n] for n in part])) == [
                (place, f"PASSAGE {n}") for place, n in enumerate(part)
            ]
        assert (service.jobs, len(service.batch_records)) == (1, sizes[-1])


def test_replies_that_an_open_job_owes_are_fetched_whole(batch, ledger, ask, s3):
    requests = [ask(f"passage {n}") for n in range(140)]
    with FakeBedrock(s3=s3) as service:
        model = LedgeredModel(batch(service, ledger, sleep=_interrupt), ledger, PRICES)
        with pytest.raises(KeyboardInterrupt):
            list(model.complete(requests))
        again = LedgeredModel(batch(service, ledger), ledger, PRICES)
        assert parts(again, requests, ["x"] * 140, free=False) == [list(range(140))]
        assert len(list(again.complete(requests))) == 140
        assert service.jobs == 1 and service.seen == []


def _interrupt(seconds):
    raise KeyboardInterrupt
