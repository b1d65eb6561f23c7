"""Amazon Bedrock's batch inference: half the price, within hours, for a hundred calls or more.

A job is written into the ledger before it is created, with the key of each of its records. So a
process that finds an open job there, whoever ordered it, waits for it and fetches its replies
instead of ordering them again; creating a job is idempotent by its token.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from embedfit.errors import GeneratorError, UsageError
from embedfit.generators import Generator as Kind
from embedfit.llm.ledger import Job, JobRecord, Ledger, call_id
from embedfit.llm.metered import most_tokens
from embedfit.llm.prices import Price
from embedfit.llm.protocol import Failure, LanguageModel, Reply, Request
from embedfit.llm.providers.bedrock import ResolvedModel, call_aws, connect, converse_input, converse_reply, parts_of
from embedfit.llm.tokens import CountsTokens
from embedfit.llm.transport.retry import RETRYABLE_STATUSES, CallError
from embedfit.progress import Reporter, Silent, duration

if TYPE_CHECKING:
    from embedfit.config import GenerateConfig
    from embedfit.llm.opening import Outside

#: Bedrock's own limits on the records of a job.
MIN_RECORDS = 100
MAX_RECORDS = 50_000
_FINAL = frozenset({"Completed", "PartiallyCompleted", "Failed", "Stopped", "Expired"})
_STALLS = 20  # polls in a row that may fail for reasons that pass


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlace:
    """Where batch jobs read and write. s3_uri: s3://bucket/prefix; role_arn: what Bedrock assumes to get at it."""

    s3_uri: str
    role_arn: str
    timeout_hours: int = 72

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return urlsplit(self.s3_uri).netloc

    @property
    def prefix(self) -> str:
        """The key prefix, "" or ending in a slash."""
        path = urlsplit(self.s3_uri).path.strip("/")
        return f"{path}/" if path else ""


class BatchModel(CountsTokens):
    """A language model asked by batch jobs.

    control: a "bedrock" client; s3: an "s3" client. price: of the batch service, to count what an open
    job may cost. fallback: for records that fail and for fewer than 100 (Bedrock takes no smaller jobs).
    poll_s: seconds between two looks at a job. run: who pays.
    """

    provider = "bedrock"  # a reply is the same however it was ordered, so the ledger does not tell them apart
    price_provider = "bedrock-batch"
    least_calls = MIN_RECORDS

    def __init__(
        self,
        control: Any,  # noqa: ANN401 - boto3 makes its clients at run time
        s3: Any,  # noqa: ANN401
        resolved: ResolvedModel,
        place: BatchPlace,
        ledger: Ledger,
        *,
        price: Price | None = None,
        fallback: LanguageModel | None = None,
        run: str = "",
        report: Reporter | None = None,
        poll_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._control, self._s3, self._place, self._ledger = control, s3, place, ledger
        self._invoke_id = resolved.invoke_id
        self._price = price
        self._run = run or ledger.owner
        self._report: Reporter = report if report is not None else Silent()
        self._poll_s, self._sleep = poll_s, sleep
        super().__init__(resolved.model)
        self.fallback = fallback

    def complete(self, requests: Sequence[Request]) -> Generator[tuple[int, Reply | Failure], None, None]:
        """Yield (index, reply or failure) as jobs end, in any order.

        First the open jobs that an earlier process ordered, then new ones. Closing the iterator
        leaves jobs running: the next complete() over the same requests picks them up.
        """
        indices = {call_id(self.provider, self.model, request): index for index, request in enumerate(requests)}
        waiting = dict(indices)
        jobs: list[tuple[Job, dict[str, str]]] = []
        for job in self._ledger.open_jobs(self.provider, self.model):
            records = {record.record_id: record.call_id for record in self._ledger.job_records(job.name)}
            if wanted := [key for key in records.values() if key in waiting]:
                self._report.log(f"Taking up batch job {job.name}: {len(wanted):,} of these calls are in it")
                if job.state == "creating":
                    job = self._create(job)
                jobs.append((job, records))
                for key in wanted:
                    del waiting[key]
        jobs += [self._order(chunk, requests, indices) for chunk in _chunks(list(waiting))]
        ordered = {key for _, records in jobs for key in records.values()}
        for key, index in indices.items():
            if key not in ordered:
                yield index, Failure(error=f"A batch job has {MIN_RECORDS} records or more.", retryable=True)
        open_keys = {key for key in indices if key in ordered}
        for job, records in jobs:
            state = self._wait(job, len(records))
            for key, outcome in self._outcomes(job, records, state, requests, indices):
                if key in open_keys:
                    open_keys.discard(key)
                    yield indices[key], outcome
            self._ledger.update_job(job.name, state=state)

    # --- ordering

    def _order(
        self, keys: Sequence[str], requests: Sequence[Request], indices: dict[str, int]
    ) -> tuple[Job, dict[str, str]]:
        created = datetime.now(timezone.utc)
        name = f"embedfit-{created:%Y%m%d-%H%M%S}-{hashlib.sha256(''.join(keys).encode()).hexdigest()[:10]}"
        folder = f"s3://{self._place.bucket}/{self._place.prefix}{name}"
        job = Job(
            name=name,
            provider=self.provider,
            model=self.model,
            arn="",
            input_uri=f"{folder}/input.jsonl",
            output_uri=f"{folder}/output/",
            state="creating",
            run=self._run,
            created=created.isoformat(timespec="milliseconds"),
        )
        records = []
        lines = []
        for number, key in enumerate(keys):
            request = requests[indices[key]]
            usd = self._price.usd(most_tokens(self, request), request.max_tokens) if self._price else 0.0
            record = JobRecord(record_id=f"R{number:010d}", call_id=key, usd=usd)  # 11 characters, as the service asks
            records.append(record)
            # stopSequences: not every model takes them, and one refusal would fail the whole job
            body = converse_input(request, frozenset({"stopSequences"}))
            lines.append(json.dumps({"recordId": record.record_id, "modelInput": body}, ensure_ascii=True))
        bucket, key_name = _split_uri(job.input_uri)
        self._report.log(f"Uploading {len(keys):,} records to {job.input_uri}")
        call_aws(self._s3.put_object, Bucket=bucket, Key=key_name, Body=("\n".join(lines) + "\n").encode())
        self._ledger.add_job(job, records)
        return self._create(job), {record.record_id: record.call_id for record in records}

    def _create(self, job: Job) -> Job:
        """Create the job at Bedrock. Safe to repeat: its name is the idempotency token."""
        try:
            response = call_aws(
                self._control.create_model_invocation_job,
                jobName=job.name,
                clientRequestToken=job.name,
                roleArn=self._place.role_arn,
                modelId=self._invoke_id,
                modelInvocationType="Converse",
                inputDataConfig={"s3InputDataConfig": {"s3Uri": job.input_uri, "s3InputFormat": "JSONL"}},
                outputDataConfig={"s3OutputDataConfig": {"s3Uri": job.output_uri}},
                timeoutDurationInHours=self._place.timeout_hours,
            )
        except CallError as error:
            if not error.retryable:
                self._ledger.update_job(job.name, state="Refused")
            raise
        arn = str(response["jobArn"])
        self._ledger.update_job(job.name, state="open", arn=arn)
        self._report.log(f"Batch job {job.name} is ordered ({arn}). It goes on if this command is stopped.")
        return Job(
            name=job.name,
            provider=job.provider,
            model=job.model,
            arn=arn,
            input_uri=job.input_uri,
            output_uri=job.output_uri,
            state="open",
            run=job.run,
            created=job.created,
        )

    # --- waiting

    def _wait(self, job: Job, total: int) -> str:
        """The final state of a job."""
        waited, stalls, done = 0.0, 0, 0.0
        with self._report.task(f"Batch job {job.name}", total, "records") as task:
            while True:
                try:
                    status = call_aws(self._control.get_model_invocation_job, jobIdentifier=job.arn)
                    stalls = 0
                except CallError as error:
                    stalls += 1
                    if error.status == 404:
                        return self._vanished(job)
                    if not error.retryable or stalls >= _STALLS:
                        raise
                    status = {"status": "unknown"}
                state = str(status["status"])
                processed = float(status.get("processedRecordCount") or done)
                task.advance(processed - done, f"{state}, {duration(waited)}")
                done = processed
                self._ledger.renew()
                if state in _FINAL:
                    return state
                self._sleep(self._poll_s)
                waited += self._poll_s

    def _vanished(self, job: Job) -> str:
        """Bedrock forgets jobs after a while; their output stays in S3."""
        self._report.log(f"Bedrock no longer knows batch job {job.name}; its output is taken as it is")
        return "Expired"

    # --- fetching

    def _outcomes(
        self, job: Job, records: dict[str, str], state: str, requests: Sequence[Request], indices: dict[str, int]
    ) -> Iterator[tuple[str, Reply | Failure]]:
        """(key, outcome) of every record that was asked for."""
        owed = {record: key for record, key in records.items() if key in indices}
        for line in self._output_lines(job):
            record = str(line.get("recordId", ""))
            key = owed.get(record)
            if key is None:
                continue
            try:
                outcome: Reply | Failure = _outcome(line, requests[indices[key]])
            except CallError as error:
                outcome = Failure(error=error.message, retryable=True)
            del owed[record]
            yield key, outcome
        for key in owed.values():
            yield key, Failure(error=f"Batch job {job.name} ended as {state} without this record.", retryable=True)

    def _output_lines(self, job: Job) -> Iterator[dict[str, Any]]:
        bucket, prefix = _split_uri(job.output_uri)
        token: str | None = None
        names: list[str] = []
        while True:
            more = {"ContinuationToken": token} if token else {}
            page = call_aws(self._s3.list_objects_v2, Bucket=bucket, Prefix=prefix, **more)
            names += [item["Key"] for item in page.get("Contents", []) if item["Key"].endswith(".jsonl.out")]
            token = page.get("NextContinuationToken")
            if not token:
                break
        for name in sorted(names):
            body = call_aws(self._s3.get_object, Bucket=bucket, Key=name)["Body"]
            for raw in body.iter_lines():
                try:
                    line = json.loads(raw)
                except ValueError:
                    continue  # a torn line: its record counts as missing, and is asked on demand
                if isinstance(line, dict):
                    yield line


def _outcome(line: dict[str, Any], request: Request) -> Reply | Failure:
    error = line.get("error")
    if isinstance(error, dict):
        code = str(error.get("errorCode", ""))
        message = f"Bedrock batch: {code} {error.get('errorMessage', '')}".strip()[:300]
        hopeless = code.isdigit() and int(code) not in RETRYABLE_STATUSES
        return Failure(error=message, retryable=not hopeless)
    return converse_reply(line.get("modelOutput"), request)


def _chunks(keys: list[str]) -> list[list[str]]:
    """Jobs of even size, none over the limit; no job at all for too few."""
    if len(keys) < MIN_RECORDS:
        return []
    count = -(-len(keys) // MAX_RECORDS)
    size = -(-len(keys) // count)
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _split_uri(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    return parts.netloc, parts.path.lstrip("/")


def batch_place(s3_uri: str | None, role_arn: str | None) -> BatchPlace:
    """The place of batch jobs from the settings. Raises UsageError that names what is missing."""
    if not s3_uri or not s3_uri.startswith("s3://") or not urlsplit(s3_uri).netloc:
        raise UsageError(
            "Bedrock batch needs a place in S3 for its input and output.",
            remedy="Set it: --set generate.batch_s3_uri=s3://BUCKET/PREFIX",
        )
    if not role_arn:
        raise UsageError(
            "Bedrock batch needs a role that may read and write that place.",
            remedy="Set it: --set generate.batch_role_arn=ARN (docs/generators.md has the policy that it needs)",
        )
    return BatchPlace(s3_uri=s3_uri, role_arn=role_arn)


def check_s3(s3: Any, place: BatchPlace) -> None:  # noqa: ANN401 - a boto3 client
    """Fail early, and for people, where the bucket is not there or not ours."""
    try:
        call_aws(s3.head_bucket, Bucket=place.bucket)
    except CallError as error:
        raise GeneratorError(
            f"The bucket {place.bucket} can't be used: {error.message}",
            remedy="Create it in the same region, or name another with --set generate.batch_s3_uri=s3://BUCKET/PREFIX",
        ) from error


def _open(settings: GenerateConfig, outside: Outside) -> LanguageModel:
    place = batch_place(settings.batch_s3_uri, settings.batch_role_arn)
    control, resolved, on_demand = parts_of(settings, outside)
    s3 = connect("s3", region=settings.region, endpoint_url=outside.endpoint_url)
    check_s3(s3, place)
    return BatchModel(
        control,
        s3,
        resolved,
        place,
        outside.ledger,
        price=outside.prices.find(BatchModel.price_provider, resolved.model),
        fallback=on_demand,
        run=outside.run,
        report=outside.report,
    )


GENERATOR = Kind(name="bedrock-batch", open=_open)
