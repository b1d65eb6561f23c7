"""Sample documents are those that were published."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from embedfit.corpus.sources import sample
from embedfit.corpus.sources.sample import SampleFile, fetch
from embedfit.errors import InputError, UsageError

CONTENT = b"the content of the filing"


@pytest.fixture
def _small_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    file = SampleFile(
        name="a.pdf",
        bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        addresses=("https://one.invalid/a.pdf", "https://two.invalid/a.pdf"),
    )
    monkeypatch.setattr(sample, "samples", lambda: {"small": (file,)})


@pytest.mark.usefixtures("_small_sample")
def test_the_second_address_is_tried_and_the_file_is_kept(tmp_path: Path) -> None:
    asked = []

    def download(address: str, limit: int) -> bytes:
        asked.append(address)
        if "one" in address:
            raise OSError("no such host")
        return CONTENT

    assert fetch("small", to=tmp_path, download=download) == [tmp_path / "small" / "a.pdf"]
    assert (tmp_path / "small" / "a.pdf").read_bytes() == CONTENT
    assert len(asked) == 2
    fetch("small", to=tmp_path, download=download)
    assert len(asked) == 2, "what is there and right is not fetched again"


@pytest.mark.usefixtures("_small_sample")
def test_another_content_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SHA-256 differs"):
        fetch("small", to=tmp_path, download=lambda address, limit: b"a login page")
    assert not (tmp_path / "small").exists()


@pytest.mark.usefixtures("_small_sample")
def test_copying_verifies_too(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(CONTENT[:-1] + b"X")
    with pytest.raises(InputError, match="not the published file: its SHA-256 differs"):
        fetch("small", to=tmp_path / "to", source=tmp_path)
    (tmp_path / "a.pdf").write_bytes(CONTENT + b"X")
    with pytest.raises(InputError, match="26 bytes instead of 25"):
        fetch("small", to=tmp_path / "to", source=tmp_path)
    with pytest.raises(InputError, match="is not there"):
        fetch("small", to=tmp_path / "to", source=tmp_path / "none")


def test_unknown_sample(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no sample") as caught:
        fetch("11k", to=tmp_path)
    assert "10k" in str(caught.value.remedy)


def test_only_https() -> None:
    with pytest.raises(UsageError):
        sample.download("file:///etc/hostname", 10)


def test_the_filings(data_dir: Path, tmp_path: Path) -> None:
    paths = fetch("10k", to=tmp_path, source=data_dir / "10k")
    assert [path.name for path in paths] == ["lyft_2021.pdf", "uber_2021.pdf"]
