"""Sample documents: fetched from their public address, or copied, and verified either way."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedfit.errors import InputError, UsageError
from embedfit.files.atomic import atomic_file
from embedfit.files.hashes import sha256_file
from embedfit.progress import Reporter, Silent

_TIMEOUT_S = 60
_SAMPLES = Path(__file__).with_name("samples.json")

#: An address → its bytes. Raises OSError if it can't be reached.
Download = Callable[[str, int], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFile:
    """A file of a sample: its size in bytes, its SHA-256, and where it is published, best address first."""

    name: str
    bytes: int
    sha256: str
    addresses: tuple[str, ...]


def samples() -> dict[str, tuple[SampleFile, ...]]:
    """The known samples, by name."""
    described = json.loads(_SAMPLES.read_text("utf-8"))
    return {
        name: tuple(SampleFile(**{**file, "addresses": tuple(file["addresses"])}) for file in sample["files"])
        for name, sample in described.items()
    }


def download(address: str, limit: int) -> bytes:
    """The bytes at an https address, at most `limit` + 1 of them."""
    if not address.startswith("https://"):
        raise UsageError(f"{address} is not an https address.")
    with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as reply:
        data: bytes = reply.read(limit + 1)
    return data


def fetch(
    name: str,
    *,
    to: Path = Path("data"),
    source: Path | None = None,
    report: Reporter | None = None,
    download: Download = download,
) -> list[Path]:
    """Put the files of a sample into `to`/`name` and return their paths. Files that are there already are kept.

    source: a folder to copy them from instead of fetching. Raises InputError if a file can't be had, or is not the
    published one.
    """
    report = report or Silent()
    known = samples()
    if name not in known:
        raise UsageError(f"There is no sample {name!r}.", remedy=f"Samples are: {', '.join(known)}")
    paths = []
    for file in known[name]:
        path = to / name / file.name
        if path.is_file() and sha256_file(path) == file.sha256:
            report.log(f"{path}: there already, verified")
        else:
            data = _copied(file, source) if source is not None else _fetched(file, report, download)
            with atomic_file(path, binary=True) as target:
                target.write(data)
            report.log(f"{path}: {file.bytes / 1e6:.1f} MB, verified")
        paths.append(path)
    return paths


def _copied(file: SampleFile, source: Path) -> bytes:
    path = source / file.name if source.is_dir() else source
    if not path.is_file():
        raise InputError(f"{path} is not there.", remedy=f"--from must name a folder that has {file.name}.")
    problem = None if path.stat().st_size == file.bytes else f"{path.stat().st_size:,} bytes instead of {file.bytes:,}"
    data = b"" if problem else path.read_bytes()
    if problem or hashlib.sha256(data).hexdigest() != file.sha256:
        raise InputError(
            f"{path} is not the published file: {problem or 'its SHA-256 differs'}.",
            remedy="Leave out --from to fetch it, or name a folder with the original.",
        )
    return data


def _fetched(file: SampleFile, report: Reporter, download: Download) -> bytes:
    problems = []
    for address in file.addresses:
        report.log(f"Fetching {address} ({file.bytes / 1e6:.1f} MB)")
        try:
            data = download(address, file.bytes)
        except (OSError, urllib.error.URLError) as error:
            problems.append(f"{address}: {error}")
            continue
        if hashlib.sha256(data).hexdigest() == file.sha256:
            return data
        problems.append(f"{address}: the content is not the published file (SHA-256 differs)")
    raise InputError(
        f"{file.name} can't be fetched: " + "; ".join(problems),
        remedy="Without network: embedfit sample 10k --from FOLDER copies and verifies files that you have.",
    )
