"""The results of a job, from S3 into the run folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from embedfit.deploy.account.calls import Aws, aws_errors
from embedfit.deploy.jobs.layout import LEDGER, LISTED, LISTING, Listing, run_files
from embedfit.errors import DeployError
from embedfit.files.atomic import atomic_file, disk_errors, is_temporary
from embedfit.files.hashes import sha256_file
from embedfit.network.aws import aws_exceptions, is_absent
from embedfit.progress import Reporter

#: Bytes of an object that are held at a time, and how often one whose body breaks off is asked for.
_CHUNK, _TRIES = 1 << 20, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """What a job left. code: the command's exit code, None if the job was ended before it. ledger: its file here."""

    code: int | None
    files: int
    ledger: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Where a job's results lie. prefix: of its checkpoints, with a slash at its end; place: the run folder's in it."""

    aws: Aws
    bucket: str
    prefix: str
    place: str

    def bring(self, run: Path, staging: Path, report: Reporter) -> Brought:
        """Put the files of the job's run folder in place of those here.

        They are fetched to `staging` first and go in place when all are here. A file that is here already is not
        fetched again, so the same call goes on after it was interrupted.
        """
        with disk_errors(staging), aws_errors("fetching the results"):
            listing = self._listing(staging)
            names = list(listing.files)
            with report.task("fetching results", max(len(names), 1), "files") as task:
                for name in names:
                    self._fetch(f"{self.place}/{name}", staging / "run" / name, listing.files[name])
                    task.advance()
            ledger = staging / LEDGER
            has_ledger = self._get(LEDGER, ledger)
        _put_in_place(staging / "run", run, listing)
        return Brought(code=listing.code, files=len(names), ledger=ledger if has_ledger else None)

    def _listing(self, staging: Path) -> Listing:
        """The job's own list, or, if the job was ended before it wrote a last one, what S3 has."""
        path = staging / LISTING
        if self._get(LISTING, path):
            listing = LISTED.validate_json(path.read_bytes())
            for name in listing.files:
                _check(name)
            if listing.code is not None:
                return listing
        return Listing(files={name: "" for name in self._keys()})

    def _keys(self) -> list[str]:
        prefix = f"{self.prefix}{self.place}/"
        pages = self.aws.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        names = [str(one["Key"]).removeprefix(prefix) for page in pages for one in page.get("Contents", [])]
        for name in names:
            _check(name)
        return [name for name in names if _belongs(name)]

    def _fetch(self, key: str, target: Path, sha256: str) -> None:
        if sha256 and target.is_file() and sha256_file(target) == sha256:
            return
        if not self._get(key, target) or (sha256 and sha256_file(target) != sha256):
            raise DeployError(
                f"s3://{self.bucket}/{self.prefix}{key} is not what the job wrote.",
                remedy="Give the same command again.",
            )

    def _get(self, key: str, target: Path, tries: int = _TRIES) -> bool:
        """Fetch an object. Returns whether there is one. tries: how often it is asked for if its body breaks off."""
        try:
            body = self.aws.client("s3").get_object(Bucket=self.bucket, Key=f"{self.prefix}{key}")["Body"]
        except aws_exceptions() as error:  # boto3 has repeated the call itself
            if is_absent(error):
                return False
            raise
        try:
            with atomic_file(target, binary=True) as file:
                for chunk in body.iter_chunks(_CHUNK):
                    file.write(chunk)
        except aws_exceptions():
            if tries == 1:
                raise
            return self._get(key, target, tries - 1)
        return True


def _belongs(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return name not in ("embedfit.toml", ".lock", ".hashes.json") and not any(map(is_temporary, parts))


def _check(name: str) -> None:
    """Refuse a name that leads out of the run folder: whoever can write to the bucket could give one."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise DeployError(f"The results in S3 name the file {name!r}, which is not in the run folder.")


def _put_in_place(staging: Path, run: Path, listing: Listing) -> None:
    """Move what was fetched into the run folder. Manifests go last: a stage is whole only when its files are."""
    _drop(listing.files, run, keep_all=listing.code is None)
    for name in sorted(listing.files, key=lambda one: (one.endswith(".manifest.json"), one)):
        source, target = staging / name, run / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
    shutil.rmtree(staging, ignore_errors=True)


def _drop(listed: Mapping[str, str], run: Path, *, keep_all: bool) -> None:
    """Remove what the run has here and no longer has there."""
    for name, path in () if keep_all else list(run_files(run)):
        if name not in listed:
            path.unlink()
