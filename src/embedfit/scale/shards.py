"""Finished shards, found by the hash of all that decides them.

A shard is written whole or not at all, and its name is made of its inputs, settings and code. So a shard that
exists is done, and two workers that do the same shard write the same bytes: no coordinator has to see to it.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

from embedfit.errors import EmbedfitError, UsageError
from embedfit.files.atomic import disk_errors
from embedfit.network.aws import Client, aws_exceptions, client, error_code, is_absent


def name_of(*parts: str | bytes) -> str:
    """The name of a shard: the hex SHA-256 of its parts, each with its length, so that no two lists of parts agree."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(b"%d:" % len(data))
        digest.update(data)
    return digest.hexdigest()


_NAME = re.compile("[0-9a-f]{64}")
#: The codes of S3 for an object that exists, or that another worker is putting.
_EXISTS = ("PreconditionFailed", "ConditionalRequestConflict")


class Shards(Protocol):
    """Where finished shards lie."""

    def read(self, name: str) -> bytes | None:
        """A shard's content; None if it is not done."""

    def write(self, name: str, data: bytes) -> None:
        """Write a shard whole. One that exists is kept."""

    def names(self) -> Iterator[str]:
        """The names of all shards."""

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of a shard; b"" if there is none."""

    def delete(self, name: str) -> None:
        """Delete a shard."""


class FolderShards:
    """Shards in a folder that every worker sees: of this machine, or of a network file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __str__(self) -> str:
        return str(self.folder)

    def path(self, name: str) -> Path:
        """The place of a shard's file."""
        return self.folder / name[:2] / name

    def has(self, name: str) -> bool:
        """Whether a shard is done."""
        return self.path(name).is_file()

    def read(self, name: str) -> bytes | None:
        """A shard's content; None if it is not done."""
        try:
            return self.path(name).read_bytes()
        except FileNotFoundError:
            return None

    @contextmanager
    def writing(self, name: str) -> Iterator[IO[bytes]]:
        """A file that gets the name on clean exit: temporary, fsync, rename."""
        path = self.path(name)
        # Workers on other machines may have the same process number, so the temporary name has none.
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
                _sync(path.parent)
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """Write a shard. One that exists is kept, because it has the same bytes."""
        if not self.has(name):
            with self.writing(name) as file:
                file.write(data)

    def names(self) -> Iterator[str]:
        """The names of all shards."""
        yield from sorted(path.name for path in self.folder.glob("??/*") if _NAME.fullmatch(path.name))

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of a shard; b"" if there is none."""
        with suppress(FileNotFoundError), self.path(name).open("rb") as file:
            return file.read(size)
        return b""

    def delete(self, name: str) -> None:
        """Overwrite and delete a shard."""
        path = self.path(name)
        with disk_errors(path), suppress(FileNotFoundError):
            with path.open("r+b") as file:
                file.write(bytes(path.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()


def _sync(folder: Path) -> None:
    """Make a new name in a folder last through a loss of power."""
    with suppress(OSError):  # not every file system can
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class ObjectShards:
    """Shards in a bucket of S3, or of a server that speaks like it.

    An object appears whole, and is put on the condition that there is none of its name, so of two workers one writes.
    """

    def __init__(self, url: str, *, endpoint_url: str | None = None) -> None:
        """url: s3://BUCKET/PREFIX. endpoint_url: the address of another server. Raises UsageError."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not url.startswith("s3://") or not bucket:
            raise UsageError(f"{url!r} names no bucket.", remedy="For example: EMBEDFIT_SHARDS=s3://my-bucket/shards")
        self.url, self._bucket = url, bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._endpoint_url = endpoint_url
        self._made: Client | None = None

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, object]:
        """Another process makes its own client."""
        return {**self.__dict__, "_made": None}

    def read(self, name: str) -> bytes | None:
        """A shard's content; None if it is not done."""
        try:
            data: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read()
        except aws_exceptions() as error:
            if is_absent(error) and error_code(error) != "NoSuchBucket":
                return None
            raise self._failed(error) from error
        return data

    def write(self, name: str, data: bytes) -> None:
        """Put a shard. One that exists is kept, because it has the same bytes."""
        try:
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data, IfNoneMatch="*")
        except aws_exceptions() as error:
            if error_code(error) not in _EXISTS:
                raise self._failed(error) from error

    def names(self) -> Iterator[str]:
        """The names of all shards."""
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            ):
                found = (one["Key"].removeprefix(self._prefix) for one in page.get("Contents", []))
                yield from filter(_NAME.fullmatch, found)
        except aws_exceptions() as error:
            raise self._failed(error) from error

    def head(self, name: str, size: int) -> bytes:
        """The first bytes of a shard; b"" if there is none."""
        try:
            found = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name, Range=f"bytes=0-{size - 1}")
            data: bytes = found["Body"].read()
        except aws_exceptions() as error:
            if is_absent(error) and error_code(error) != "NoSuchBucket":
                return b""
            raise self._failed(error) from error
        return data

    def delete(self, name: str) -> None:
        """Delete a shard. A bucket with versions keeps the old one until its own rules end it."""
        try:
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)
        except aws_exceptions() as error:
            raise self._failed(error) from error

    @property
    def _client(self) -> Client:
        if self._made is None:
            self._made = client("s3", endpoint_url=self._endpoint_url, needed_for=self.url)
        return self._made

    def _failed(self, error: Exception) -> EmbedfitError:
        return EmbedfitError(
            f"Shards in {self.url} can't be read or written: {error}",
            remedy="Check the bucket's name, its region (AWS_REGION) and the rights s3:GetObject and s3:PutObject, and "
            "for `embedfit forget` s3:ListBucket and s3:DeleteObject.",
        )


def open_shards(place: str) -> Shards:
    """The shards of s3://BUCKET/PREFIX or of a folder."""
    return ObjectShards(place) if "://" in place else FolderShards(Path(place).expanduser())
