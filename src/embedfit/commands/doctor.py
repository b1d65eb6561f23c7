"""Findings about this machine: each thing that works or does not, and the command that fixes it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from typing import Any, Literal, cast

import torch

from embedfit.errors import EmbedfitError
from embedfit.models.sources import EMBEDDERS, resolve_generator, resolve_model
from embedfit.numerics import machine as hardware
from embedfit.runtime import cache_folder, default_ledger

DiagnosisState = Literal["ok", "warning", "missing"]
#: Each extra of pyproject.toml, and the package that shows whether it is installed.
EXTRAS = {
    "aws": "boto3", "openai": "httpx", "serve": "uvicorn", "formats": "openpyxl", "onnx": "onnxruntime",
    "langchain": "langchain-core", "llamaindex": "llama-index-core", "ann": "faiss-cpu", "stores": "pyarrow",
    "local": "openvino-genai", "mcp": "mcp", "lora": "peft", "ray": "ray", "tracking": "tensorboardX",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A finding about one thing. required: whether even the offline path needs the thing."""

    what: str
    state: DiagnosisState
    found: str
    fix: str = ""
    required: bool = False

    def as_dict(self) -> dict[str, object]:
        """For --json."""
        return asdict(self)


def diagnose(*, aws: bool = False, region: str | None = None) -> list[Diagnosis]:
    """Every finding; with aws also what deploying and Bedrock need. Changes nothing but the model cache."""
    findings = [*_machine(), *_extras(), *_models(), *_credentials()]
    if aws:
        from embedfit.deploy.doctor import aws_findings  # boto3 is an extra

        for one in aws_findings(region):
            state = cast("DiagnosisState", one["state"])
            findings.append(Diagnosis(what=one["what"], state=state, found=one["found"], fix=one["fix"]))
    return findings


def _machine() -> list[Diagnosis]:
    rates = {kind: hardware.gemm_rate(kind) / 1e12 for kind in ("fp32", "bf16")}
    chosen = hardware.best_precision()
    speed = ", ".join(f"{kind} {rate:.2f}" for kind, rate in rates.items())
    memory = hardware.memory_limit() >> 30
    findings = [
        Diagnosis(
            what="Python", state="ok", found=f"{platform.python_version()}, {sys.platform}", required=True
        ),
        Diagnosis(
            what="CPU",
            state="ok",
            found=f"{hardware.cores()} cores, TFLOP/s of matrix products: {speed}; trains in {chosen}",
            fix="" if chosen != "fp32" else "No fast bf16 here (AMX): training takes several times as long.",
        ),
        Diagnosis(
            what="memory",
            state="ok" if memory >= 3 else "warning",
            found=f"{memory} GiB free",
            fix="" if memory >= 3 else "Close other programs, or use a smaller --model.",
        ),
    ]  # fmt: skip
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none; the CPU is used"
    findings.append(Diagnosis(what="GPU", state="ok", found=gpu))
    kind = torch.version.cuda or torch.version.hip
    findings.append(torch_build(torch.__version__, kind, has_gpu=torch.cuda.is_available() or hardware.may_have_gpu()))
    return findings


def torch_build(version: str, kind: str | None, *, has_gpu: bool) -> Diagnosis:
    """Whether torch's build fits the machine. kind: the version of CUDA or ROCm that it was built for, or None."""
    if kind is None or has_gpu:
        return Diagnosis(what="torch", state="ok", found=version)
    return Diagnosis(
        what="torch",
        state="warning",
        found=f"{version}, built for GPUs ({kind}), and this machine has none: gigabytes that nothing uses",
        fix="In a fresh environment install torch's CPU build first, then embedfit. Its command: choose CPU at "
        "https://pytorch.org/get-started/locally/",
    )


def _extras() -> list[Diagnosis]:
    findings = []
    for extra, package in EXTRAS.items():
        try:
            found: tuple[DiagnosisState, str, str] = ("ok", f"{package} {metadata.version(package)}", "")
        except metadata.PackageNotFoundError:
            found = ("warning", f"{package} is not installed", f"pip install 'embedfit[{extra}]'")
        findings.append(Diagnosis(what=f"extra {extra}", state=found[0], found=found[1], fix=found[2]))
    return findings


def _models() -> list[Diagnosis]:
    findings = [
        _model("minilm", lambda: str(resolve_model("minilm")), required=True),
        _model("local generator", lambda: resolve_generator().name, required=True),
    ]
    for name in EMBEDDERS:
        if name != "minilm":
            findings.append(_model(name, partial(resolve_cached, name), required=False))
    findings.append(Diagnosis(what="cache", state="ok", found=str(cache_folder())))
    return findings


def resolve_cached(name: str) -> str:
    """The path of a model in the hub's cache. It downloads nothing. Raises EmbedfitError."""
    from huggingface_hub import try_to_load_from_cache  # slow to import

    path = try_to_load_from_cache(EMBEDDERS[name].hub_id, "model.safetensors")
    if isinstance(path, str):
        return path
    raise EmbedfitError(
        f"{EMBEDDERS[name].hub_id} is not in the hub's cache",
        remedy="It is downloaded when first used; without the hub use --model minilm.",
    )


def _model(what: str, find: Callable[[], str], *, required: bool) -> Diagnosis:
    try:
        return Diagnosis(what=what, state="ok", found=find(), required=required)
    except EmbedfitError as error:
        state: DiagnosisState = "missing" if required else "warning"
        return Diagnosis(what=what, state=state, found=error.message, fix=error.remedy or "", required=required)


def _credentials() -> list[Diagnosis]:
    key = "set" if os.environ.get("OPENAI_API_KEY") else "not set"
    findings = [
        Diagnosis(
            what="OPENAI_API_KEY",
            state="ok" if key == "set" else "warning",
            found=key,
            fix="" if key == "set" else "export OPENAI_API_KEY=… for --generator openai; local servers need none",
        )
    ]
    try:
        import botocore.session
    except ImportError:
        return findings
    session: Any = botocore.session  # has no annotations
    there = session.get_session().get_credentials() is not None
    findings.append(
        Diagnosis(
            what="AWS credentials",
            state="ok" if there else "warning",
            found="found" if there else "none found",
            fix=""
            if there
            else "aws configure sso, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for Bedrock and deploy",
        )
    )
    findings.append(Diagnosis(what="ledger", state="ok", found=str(default_ledger())))
    return findings
