"""Amazon Bedrock's batch inference: half the price, within hours, for a hundred calls or more.

A job is written into the ledger before it is created, with the key of each of its records. So a process that finds an
open job there waits for it and fetches its replies instead of ordering them again, whichever process ordered it;
creating a job is idempotent by its token.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from pydantic import JsonValue

from embedfit.errors import GeneratorError, UsageError
from embedfit.generators import Generator as Kind
from embedfit.llm.ledger import BatchJob, JobRecord, call_id
from embedfit.llm.metered import ceiling
from embedfit.llm.protocol import Failure, LanguageModel, Outcome, Request
from embedfit.llm.providers.bedrock import ResolvedModel, call_aws, connect, converse_input, converse_reply, parts_of
from embedfit.llm.tokens import CountsTokens
from embedfit.llm.transport.retry import RETRYABLE_STATUSES, CallError
from embedfit.progress import duration

if TYPE_CHECKING:
    from mypy_boto3_bedrock import BedrockClient
    from mypy_boto3_bedrock_runtime.type_defs import ConverseResponseTypeDef as Response
    from mypy_boto3_s3 import S3Client

    from embedfit.config import GenerateConfig
    from embedfit.llm.opening import Outside

#: Bedrock's own limits on the records of a job.
MIN_RECORDS = 100
MAX_RECORDS = 50_000
_FINAL = frozenset({"Completed", "PartiallyCompleted", "Failed", "Stopped", "Expired"})
_STALLS = 20  # polls in a row that may fail for reasons that pass


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlace:
    """The place of jobs' files. s3_uri: s3://bucket/prefix; role_arn: the role that Bedrock assumes there."""

    s3_uri: str
    role_arn: str
    timeout_hours: int = 72

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return urlsplit(self.s3_uri).netloc


class BatchModel(CountsTokens, LanguageModel):
    """A language model that is asked in batch jobs.

    control: a "bedrock" client; s3: an "s3" client. outside: its prices bound the cost of an open job, and its run
    pays. fallback: the model for records that fail and for fewer than 100 calls (Bedrock takes no smaller jobs).
    poll_s: seconds between two looks at a job.
    """

    provider = "bedrock"  # the ledger does not tell batch from single calls, because the reply to a request is the same
    price_provider = "bedrock-batch"
    least_calls = MIN_RECORDS

    def __init__(
        self,
        control: BedrockClient,
        s3: S3Client,
        resolved: ResolvedModel,
        place: BatchPlace,
        outside: Outside,
        *,
        fallback: LanguageModel | None = None,
        poll_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(resolved.model)
        self._control, self._s3, self._place = control, s3, place
        self._invoke_id = resolved.invoke_id
        self._ledger, self._report = outside.ledger, outside.report
        self._price = outside.prices.find(self.price_provider, self.model)
        self._run = outside.run or outside.ledger.owner
        self._poll_s, self._sleep = poll_s, sleep
        self.fallback = fallback

    def close(self) -> None:
        """Close the connections."""
        self._control.close()  # type: ignore[no-untyped-call]
        self._s3.close()  # type: ignore[no-untyped-call]
        if self.fallback is not None:
            self.fallback.close()

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        """Yield (index, outcome) as jobs end, in any order.

        The open jobs of earlier processes come first, then new ones. Closing the iterator
        leaves jobs running: the next complete() over the same requests picks them up.
        """
        wanted = {call_id(self.provider, self.model, request): index for index, request in enumerate(requests)}
        unordered = dict(wanted)
        jobs: list[BatchJob] = []
        for job in self._ledger.open_jobs(self.provider, self.model):
            if found := [r.call_id for r in self._ledger.job_records(job.name) if r.call_id in unordered]:
                self._report.log(f"Taking up batch job {job.name}: {len(found):,} of the calls are in it")
                jobs.append(self._create(job) if job.state == "creating" else job)
                for key in found:
                    del unordered[key]
        for chunk in chunks(list(unordered)):
            jobs.append(self._order({key: requests[unordered.pop(key)] for key in chunk}))
        for index in unordered.values():
            yield index, Failure(error=f"A batch job has {MIN_RECORDS} records or more.", retryable=True)
        for job in jobs:
            records = {record.record_id: record.call_id for record in self._ledger.job_records(job.name)}
            state = self._wait(job, len(records))
            owed = {record: wanted[key] for record, key in records.items() if key in wanted}
            for index, outcome in self._outcomes(job, owed, state, requests):
                if wanted.pop(call_id(self.provider, self.model, requests[index]), None) is not None:
                    yield index, outcome
            self._ledger.update_job(job.name, state=state)

    # --- ordering

    def _order(self, requests: dict[str, Request]) -> BatchJob:
        """Order a job. requests: the calls by their keys."""
        created = datetime.now(timezone.utc)
        name = f"embedfit-{created:%Y%m%d-%H%M%S}-{hashlib.sha256(''.join(requests).encode()).hexdigest()[:10]}"
        folder = f"{self._place.s3_uri.rstrip('/')}/{name}"
        job = BatchJob(
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
        records, lines = [], []
        for number, (key, request) in enumerate(requests.items()):
            record = f"R{number:010d}"  # 11 characters, as the service asks
            records.append(JobRecord(record_id=record, call_id=key, usd=ceiling(self._price, self, request)))
            # stopSequences: not every model takes them, and one refusal would fail the whole job
            body = converse_input(request, frozenset({"stopSequences"}))
            lines.append(json.dumps({"recordId": record, "modelInput": body}, ensure_ascii=True) + "\n")
        bucket, key_name = _split_uri(job.input_uri)
        self._report.log(f"Uploading {len(requests):,} records to {job.input_uri}")
        call_aws(self._s3.put_object, Bucket=bucket, Key=key_name, Body="".join(lines).encode())
        self._ledger.add_job(job, records)
        return self._create(job)

    def _create(self, job: BatchJob) -> BatchJob:
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
        arn = response["jobArn"]
        self._ledger.update_job(job.name, state="open", arn=arn)
        self._report.log(f"Batch job {job.name} is ordered ({arn}). It goes on if this command is stopped.")
        return replace(job, arn=arn, state="open")

    # --- waiting

    def _wait(self, job: BatchJob, total: int) -> str:
        """Wait for a job's final state. Other runs may pay in the meantime."""
        waited, stalls, done, state = 0.0, 0, 0.0, "unknown"
        with self._report.task(f"Batch job {job.name}", total, "records") as task:
            while True:
                try:
                    status = call_aws(self._control.get_model_invocation_job, jobIdentifier=job.arn)
                    state, stalls = status["status"], 0
                    processed = float(status.get("processedRecordCount") or done)
                except CallError as error:
                    stalls += 1
                    if error.status == 404:  # Bedrock forgets jobs after a while; their output stays in S3
                        self._report.log(f"Bedrock no longer knows batch job {job.name}; its output is taken as it is")
                        return "Expired"
                    if not error.retryable or stalls >= _STALLS:
                        raise
                    state, processed = "unknown", done
                task.advance(processed - done, f"{state}, {duration(waited)}")
                done = processed
                if state in _FINAL:
                    return state
                with self._ledger.resting(self._report):
                    self._sleep(self._poll_s)
                waited += self._poll_s

    # --- fetching

    def _outcomes(
        self, job: BatchJob, owed: dict[str, int], state: str, requests: Sequence[Request]
    ) -> Iterator[tuple[int, Outcome]]:
        """(index, outcome) of every record that was asked for. owed: indices by record."""
        for line in self._output_lines(job):
            index = owed.pop(str(line.get("recordId", "")), None)
            if index is not None:
                yield index, _outcome(line, requests[index])
        for index in owed.values():
            yield index, Failure(error=f"Batch job {job.name} ended as {state} without this record.", retryable=True)

    def _output_lines(self, job: BatchJob) -> Iterator[dict[str, JsonValue]]:
        bucket, prefix = _split_uri(job.output_uri)
        page = call_aws(self._s3.list_objects_v2, Bucket=bucket, Prefix=prefix)
        names = [item["Key"] for item in page.get("Contents", [])]
        while token := page.get("NextContinuationToken"):
            page = call_aws(self._s3.list_objects_v2, Bucket=bucket, Prefix=prefix, ContinuationToken=token)
            names += [item["Key"] for item in page.get("Contents", [])]
        for name in sorted(name for name in names if name.endswith(".jsonl.out")):
            body = call_aws(self._s3.get_object, Bucket=bucket, Key=name)["Body"]
            for raw in body.iter_lines():  # type: ignore[no-untyped-call]
                try:
                    line = json.loads(raw)
                except ValueError:
                    continue  # a torn line: its record counts as missing, and is asked on demand
                if isinstance(line, dict):
                    yield line


def _outcome(line: dict[str, JsonValue], request: Request) -> Outcome:
    error = line.get("error")
    if isinstance(error, dict):
        code = str(error.get("errorCode", ""))
        message = f"Bedrock batch: {code} {error.get('errorMessage', '')}".strip()[:300]
        return Failure(error=message, retryable=not code.isdigit() or int(code) in RETRYABLE_STATUSES)
    try:
        return converse_reply(cast("Response", line.get("modelOutput")), request)
    except CallError as torn:
        return Failure(error=torn.message, retryable=True)


def chunks(keys: list[str], most: int = MAX_RECORDS) -> list[list[str]]:
    """The calls of each job, in jobs of even size within the limit; no job if the calls are too few."""
    if len(keys) < MIN_RECORDS:
        return []
    count = -(-len(keys) // most)
    size = -(-len(keys) // count)
    return [keys[start : start + size] for start in range(0, len(keys), size)]


def _split_uri(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri)
    return parts.netloc, parts.path.lstrip("/")


def batch_place(s3_uri: str | None, role_arn: str | None) -> BatchPlace:
    """The place of batch jobs from the settings. Raises UsageError that names the missing settings."""
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


def _open(settings: GenerateConfig, outside: Outside) -> LanguageModel:
    place = batch_place(settings.batch_s3_uri, settings.batch_role_arn)
    control, resolved, on_demand = parts_of(settings, outside)
    s3: S3Client = connect("s3", region=settings.region, endpoint_url=outside.endpoint_url)
    try:
        call_aws(s3.head_bucket, Bucket=place.bucket)
    except CallError as error:
        raise GeneratorError(
            f"The bucket {place.bucket} can't be used: {error.message}",
            remedy="Create it in the same region, or name another with --set generate.batch_s3_uri=s3://BUCKET/PREFIX",
        ) from error
    return BatchModel(control, s3, resolved, place, outside, fallback=on_demand)


GENERATOR = Kind(name="bedrock-batch", open=_open)
