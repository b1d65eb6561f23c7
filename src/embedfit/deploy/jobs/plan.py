"""The plan of a run in a training job: the exact calls, the most that it can cost, the rights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from embedfit.deploy import checks
from embedfit.deploy.account import images, policies
from embedfit.deploy.account.calls import Aws
from embedfit.deploy.account.policies import allow
from embedfit.deploy.account.prices import PriceTable, cost_of
from embedfit.deploy.account.training import LOG_GROUP
from embedfit.deploy.artefact import ModelFile
from embedfit.deploy.checks import AccountFinding, CallerIdentity
from embedfit.deploy.jobs.layout import CHANNEL, CHECKPOINTS, ROOT
from embedfit.deploy.jobs.options import JobOptions, device_of
from embedfit.deploy.options import slug
from embedfit.deploy.plan import (
    DEFAULT_PREFIX,
    JOB_FOLDER,
    UNKNOWN_ACCOUNT,
    UNKNOWN_ROLE,
    Call,
    Plan,
    Policies,
    Step,
    default_bucket,
    look,
    marker_call,
    network_of,
    role_finding,
    role_step,
    tag_list,
    unchecked,
    upload_call,
)
from embedfit.network.aws import Parameters
from embedfit.path.workspace import sha256_json

#: GB of disk beside three times the inputs: the image's own, models, vectors and checkpoints.
_DISK_GB = 100
#: How often SageMaker starts a job again after a failure of its own.
_RETRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInputs:
    """What a job needs of this machine.

    files: under their keys in S3; those of `written` are made when the plan is carried out. sha256: of documents and
    settings, by which the same command finds its job again; the run folder's own state is not part of it.
    models: ids of Bedrock that the job asks. place: the run folder's place under the checkpoints.
    """

    run: str
    folder: Path
    files: tuple[ModelFile, ...]
    written: Mapping[str, bytes]
    sha256: str
    place: str
    models: tuple[str, ...] = ()
    findings: tuple[AccountFinding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def state_folder(self) -> Path:
        """The folder of the state, the run's own, which the commands `deploy sagemaker` use too."""
        return self.folder / "deploy"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCost:
    """An estimate in USD; None if the table lacks the instance type. most_usd: at max_hours, on demand."""

    usd_per_hour: float | None
    max_hours: float
    most_usd: float | None
    basis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan(Plan):
    """The plan of a job. written: the content of files that are made when it is carried out."""

    cost: JobCost
    spot: bool
    run_seconds: int
    wait_seconds: int
    keep: bool
    place: str
    job_name: str
    upload_bytes: int
    written: Mapping[str, bytes] = field(repr=False)

    @property
    def usd_per_instance_hour(self) -> float | None:
        """The price of an instance; None if it is not known."""
        return self.cost.usd_per_hour

    @property
    def job(self) -> str:
        """The name of its training job."""
        return self.job_name

    @property
    def checkpoints(self) -> str:
        """The prefix in the bucket to which SageMaker copies what the job makes."""
        return _key(self.name, CHECKPOINTS)


def job_name(deployment: str, attempt: str) -> str:
    """The name of the job of one attempt: SageMaker takes a job's name once and never again."""
    return f"{deployment}-{attempt[:6]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    options: JobOptions
    inputs: JobInputs
    name: str
    job: str
    image: str
    role_arn: str
    bucket: str
    tags: dict[str, str]

    def uri(self, folder: str) -> str:
        return f"s3://{self.bucket}/{_key(self.name, folder)}"


def _key(name: str, folder: str) -> str:
    return f"embedfit/{name}/{folder.rstrip('/')}/"


def plan_job(
    options: JobOptions,
    inputs: JobInputs,
    *,
    aws: Aws | None,
    prices: PriceTable,
    now: datetime,
    attempt: str,
) -> JobPlan:
    """The plan of a job. aws: None without boto3; the account is only read. attempt: a part of the job's name."""
    who, findings = look(aws)
    target = _target(options, inputs, who, attempt)
    documents = _policies(target, who)
    cost = _cost(options, prices)
    return JobPlan(
        name=target.name,
        region=options.region,
        account=who.account if who else None,
        owner=who.arn if who else None,
        run=target.tags["embedfit:run"],
        attempt=attempt,
        expires="",
        image=target.image,
        instance_type=options.instance_type,
        model=str(inputs.folder),
        bucket=target.bucket,
        prefix=_key(target.name, JOB_FOLDER),
        state_folder=inputs.state_folder,
        tags=target.tags,
        steps=_steps(target, documents),
        policies=documents,
        findings=(*findings, *_findings(target, aws if who else None), *inputs.findings),
        notes=(*inputs.notes, *_notes(options)),
        cost=cost,
        spot=options.spot,
        run_seconds=options.run_seconds,
        wait_seconds=options.wait_seconds if options.spot else options.run_seconds,
        keep=options.keep,
        place=inputs.place,
        job_name=target.job,
        upload_bytes=sum(file.size for file in inputs.files),
        written=inputs.written,
    )


def deployment_name(options: JobOptions, inputs: JobInputs) -> str:
    """The name of everything that belongs to this command: the same command gives the same one."""
    return f"{DEFAULT_PREFIX}{slug(inputs.run, 32)}-{_hash(options, inputs)[:8]}"


def _hash(options: JobOptions, inputs: JobInputs) -> str:
    asked = options.model_dump(mode="json", include={"instance_type", "image_uri", "kms_key", "bucket", "secrets"})
    return sha256_json({"job": asked, "inputs": inputs.sha256})[:12]


def _target(options: JobOptions, inputs: JobInputs, who: CallerIdentity | None, attempt: str) -> _Target:
    account = who.account if who else UNKNOWN_ACCOUNT
    name = deployment_name(options, inputs)
    bucket = options.bucket or default_bucket(options.region, account)
    role = options.role_arn or UNKNOWN_ROLE
    if options.create_role:
        role = f"arn:{images.partition_of(options.region).name}:iam::{account}:role/embedfit/{name}"
    return _Target(
        options=options,
        inputs=inputs,
        name=name,
        job=job_name(name, attempt),
        image=options.image_uri or images.training_image(options.region, device_of(options.instance_type)),
        role_arn=role,
        bucket=bucket,
        tags={
            **options.tags,
            "embedfit:project": options.project,
            "embedfit:run": slug(inputs.run, 40),
            "embedfit:owner": (who.arn if who else UNKNOWN_ACCOUNT)[:256],
            "embedfit:ttl": "none",
            "embedfit:deployment": name,
            "embedfit:attempt": attempt,
            "embedfit:hash": _hash(options, inputs),
            "embedfit:artefact": f"s3://{bucket}/{_key(name, JOB_FOLDER)}"[:256],
        },
    )


# --- what it costs, what is missing


def _cost(options: JobOptions, prices: PriceTable) -> JobCost:
    priced = cost_of(prices, options.instance_type, 1, 1, options.region)
    price = priced.instance_usd_per_hour
    spare = "; spare capacity (--spot) costs less, at a price that changes" if options.spot and price else ""
    return JobCost(
        usd_per_hour=price,
        max_hours=options.max_hours,
        most_usd=None if price is None else round(price * options.max_hours, 2),
        basis=f"estimate, {priced.basis}{spare}",
    )


def _findings(target: _Target, aws: Aws | None) -> tuple[AccountFinding, ...]:
    options = target.options
    use = "spot training job usage" if options.spot else "training job usage"
    unnamed = "no role for the job was named"
    role = role_finding(target.name, target.role_arn, aws, made=options.create_role, unnamed=unnamed)
    if aws is None:
        quota = unchecked("quota", f"{options.instance_type} for {use}")
        return role, unchecked("bucket", f"s3://{target.bucket}"), quota
    return role, checks.bucket(aws, target.bucket), checks.quota(aws, options.instance_type, use=use)


def _notes(options: JobOptions) -> tuple[str, ...]:
    notes = ["The job gets no environment variable and no file of yours but those listed; it reads keys by --secret."]
    if not options.keep:
        notes.append("When the results are here, everything in AWS is deleted but SageMaker's record of the job.")
    if options.kms_key and images.has_local_disk(options.instance_type):
        notes.append(f"{options.instance_type} encrypts its disk itself; the KMS key is used for S3 only.")
    return tuple(notes)


# --- the calls


def _steps(target: _Target, documents: Policies) -> tuple[Step, ...]:
    words = f"Role of the SageMaker training job {target.name}"
    made = [role_step(target.name, tag_list(target.tags), documents, words)] if target.options.create_role else []
    return (*made, _upload_step(target), _job_step(target))


def _upload_step(target: _Target) -> Step:
    key = target.options.kms_key
    sse = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key} if key else {}
    files = target.inputs.files
    body = {
        "tags": target.tags,
        "sha256": target.inputs.sha256,
        "folder": JOB_FOLDER,
        "files": {file.key: file.size for file in files},
    }
    prefix = _key(target.name, JOB_FOLDER)
    calls = [upload_call(file, target.bucket, prefix, sse) for file in files]
    return Step(
        kind="artefact",
        name=f"s3://{target.bucket}/embedfit/{target.name}/",
        calls=(marker_call(target.name, target.bucket, body, sse), *calls),
    )


def _job_step(target: _Target) -> Step:
    options = target.options
    key = options.kms_key
    disk = math.ceil(sum(file.size for file in target.inputs.files) / 1e9 * 3) + _DISK_GB
    resources: Parameters = {
        "InstanceType": options.instance_type,
        "InstanceCount": 1,
        "VolumeSizeInGB": options.volume_gb or disk,
    }
    if key and not images.has_local_disk(options.instance_type):
        resources["VolumeKmsKeyId"] = key
    stopping = {"MaxRuntimeInSeconds": options.run_seconds}
    if options.spot:
        stopping["MaxWaitTimeInSeconds"] = options.wait_seconds
    source = {"S3DataType": "S3Prefix", "S3Uri": target.uri(JOB_FOLDER), "S3DataDistributionType": "FullyReplicated"}
    parameters: Parameters = {
        "TrainingJobName": target.job,
        "AlgorithmSpecification": {
            "TrainingImage": target.image,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": ["python3", f"{ROOT}/input/data/{CHANNEL}/start.py"],
        },
        "RoleArn": target.role_arn,
        "InputDataConfig": [{"ChannelName": CHANNEL, "DataSource": {"S3DataSource": source}}],
        "OutputDataConfig": {"S3OutputPath": target.uri("output"), **({"KmsKeyId": key} if key else {})},
        "ResourceConfig": resources,
        "StoppingCondition": stopping,
        "EnableManagedSpotTraining": options.spot,
        "CheckpointConfig": {"S3Uri": target.uri(CHECKPOINTS), "LocalPath": f"{ROOT}/{CHECKPOINTS}"},
        "RetryStrategy": {"MaximumRetryAttempts": _RETRIES},
        "Tags": tag_list(target.tags),
    }
    parameters |= network_of(options.subnets, options.security_groups)
    call = Call(service="sagemaker", operation="create_training_job", parameters=parameters)
    return Step(kind="training_job", name=target.job, calls=(call,))


# --- the rights


def _policies(target: _Target, who: CallerIdentity | None) -> Policies:
    options = target.options
    account = who.account if who else "*"
    partition = images.partition_of(options.region).name
    image = images.split_image_uri(target.image)
    role = f"arn:{partition}:iam::{account}:role/*" if target.role_arn == UNKNOWN_ROLE else target.role_arn
    names = policies.Names(
        partition=partition,
        region=options.region,
        account=account,
        deployment=target.name,
        role_arn=role.replace(UNKNOWN_ACCOUNT, "*"),
        bucket=target.bucket.replace(UNKNOWN_ACCOUNT, "*"),
        prefix=f"embedfit/{target.name}/",
        repository=f"arn:{partition}:ecr:{image.region}:{image.account}:repository/{image.repository}"
        if image
        else None,
        kms_key=options.kms_key,
        vpc=bool(options.subnets),
        uploads=True,
        creates_role=options.create_role,
        scales=False,
        log_group=LOG_GROUP,
    )
    return Policies(
        trust=policies.trust_policy(account),
        execution=_job_policy(names, target),
        deployer=_starter_policy(names),
    )


def _job_policy(names: policies.Names, target: _Target) -> policies.Document:
    """The rights of the running job: its own prefix, image and log, the models that it asks, the secrets named."""
    document = policies.execution_policy(names)
    own = f"{names.arn}:s3:::{names.bucket}/{names.prefix}"
    written = [f"{own}{CHECKPOINTS}/*", f"{own}output/*"]
    added = [allow("WriteResults", ["s3:AbortMultipartUpload", "s3:DeleteObject", "s3:PutObject"], written)]
    if target.inputs.models:
        asked = [f"{names.arn}:bedrock:*::foundation-model/{model}" for model in target.inputs.models]
        owned = f"{names.arn}:bedrock:*:{names.account}:inference-profile"
        profiles = [f"{owned}/*{model}" for model in target.inputs.models]
        see = ["bedrock:GetFoundationModel", "bedrock:GetInferenceProfile", "bedrock:InvokeModel"]
        added.append(allow("AskModels", see, [*asked, *profiles]))
        listed = ("GetFoundationModelAvailability", "ListFoundationModels", "ListInferenceProfiles")
        added.append(allow("FindModels", [f"bedrock:{one}" for one in listed], ["*"]))
    if target.options.secrets:
        arns = sorted(set(target.options.secrets.values()))
        added.append(allow("ReadSecrets", ["secretsmanager:GetSecretValue"], arns))
    return {**document, "Statement": [*document["Statement"], *added]}


def _starter_policy(names: policies.Names) -> policies.Document:
    """The rights of the person who starts the job, fetches its results and cleans up."""
    jobs = f"{names.arn}:sagemaker:{names.region}:{names.account}:training-job/{names.deployment.lower()}-*"
    act = ["AddTags", "CreateTrainingJob", "DescribeTrainingJob", "ListTags", "StopTrainingJob"]
    find = ["ListEndpointConfigs", "ListEndpoints", "ListModels", "ListTags", "ListTrainingJobs"]
    statements = [
        allow("OwnJob", [f"sagemaker:{one}" for one in act], [jobs]),
        allow(
            "FindByTag",
            [
                *(f"sagemaker:{one}" for one in find),
                "application-autoscaling:DescribeScalableTargets",
                "logs:DescribeLogGroups",
                "servicequotas:ListServiceQuotas",
                "sts:GetCallerIdentity",
            ],
            ["*"],
        ),
        policies.role_statement(names),
        allow(
            "ReadLog",
            ["logs:DeleteLogStream", "logs:DescribeLogStreams", "logs:GetLogEvents"],
            [names.log_arn, f"{names.log_arn}:log-stream:{names.deployment}-*"],
        ),
        *(policies.making_statements(names) if names.creates_role else ()),
        *policies.upload_statements(names),
    ]
    return {"Version": "2012-10-17", "Statement": statements}
