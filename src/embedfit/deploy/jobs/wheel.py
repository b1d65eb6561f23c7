"""The installed embedfit as a wheel, so that a job runs the very code that planned it."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from importlib import metadata, resources
from pathlib import Path

from embedfit.errors import DeployError

_LEFT_OUT = ("__pycache__", ".mypy_cache", ".ruff_cache")
#: The oldest time that a zip file can hold: the wheel's bytes depend on its files alone.
_DATE = (1980, 1, 1, 0, 0, 0)


def own_wheel() -> tuple[str, bytes]:
    """(file name, bytes) of a wheel of this installation, editable ones included. The same files give the same bytes.

    Raises DeployError if embedfit runs from a folder without being installed.
    """
    try:
        found = metadata.distribution("embedfit")
        described, scripts = found.read_text("METADATA"), found.read_text("entry_points.txt")
    except metadata.PackageNotFoundError:
        described, scripts = None, None
    if described is None or scripts is None:
        raise DeployError(
            "embedfit is not installed here, so there is no wheel of it for the job.", remedy="Run: pip install ."
        )
    package = Path(str(resources.files("embedfit")))
    files = {
        f"embedfit/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and path.suffix != ".pyc" and not set(_LEFT_OUT) & set(path.parts)
    }
    info = f"embedfit-{found.version}.dist-info"
    files[f"{info}/METADATA"] = described.encode()
    files[f"{info}/entry_points.txt"] = scripts.encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: embedfit\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = "".join(f"{name},sha256={_hash(content)},{len(content)}\n" for name, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    return f"embedfit-{found.version}-py3-none-any.whl", _zip(files)


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def _zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
