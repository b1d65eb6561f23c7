"""The first program of a job: installs the wheel beside it, then hands over to embedfit.deploy.jobs.container.

It is uploaded as it is and runs before embedfit is installed, so it uses Python's own library alone. It lies in
ROOT/input/data/embedfit, where ROOT is /opt/ml.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path


def main() -> None:
    """Install what is missing and go on as the container's program. The image's PyTorch stays as it is."""
    inputs = Path(__file__).resolve().parent
    root = inputs.parents[2]
    job = json.loads((inputs / "job.json").read_text("utf-8"))
    if _version("embedfit") != job["version"]:
        kept = inputs.parent / "constraints.txt"
        kept.write_text("".join(f"{one}=={known}\n" for one in ("torch",) if (known := _version(one))), "utf-8")
        wheel = f"embedfit[{job['extras']}] @ {(inputs / job['wheel']).as_uri()}"
        install = [sys.executable, "-m", "pip", "install", "--no-input", "--constraint", str(kept), wheel]
        done = subprocess.run(install, check=False)
        if done.returncode:
            failure = root / "output" / "failure"
            failure.parent.mkdir(parents=True, exist_ok=True)
            failure.write_text("pip could not install embedfit: the job's log says why.\n", "utf-8")
            sys.exit(done.returncode)
    os.execv(sys.executable, [sys.executable, "-m", "embedfit.deploy.jobs.container", str(root)])


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    main()
