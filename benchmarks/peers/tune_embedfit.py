"""Mine, train and merge as a run of embedfit does. Run by recipe_vs_peers.py in embedfit's environment: SPEC RESULT.

SPEC names a run folder with passages and queries, a preset and further settings; the run goes into the folder `out`.
"""

import json
import shutil
import sys
from pathlib import Path

from embedfit.config import resolve
from embedfit.path.artefacts import MergeSweep
from embedfit.path.pipeline import run_stage
from embedfit.path.stages import STAGES
from embedfit.path.workspace import Workspace
from embedfit.progress import LogLines
from embedfit.runtime import Runtime


def main(spec_path: str, result_path: str) -> None:
    spec = json.loads(Path(spec_path).read_text("utf-8"))
    source, workspace = Path(spec["source"]), Workspace(Path(spec["out"]))
    workspace.root.mkdir(parents=True)
    for name in ("passages.jsonl", "queries.jsonl"):
        shutil.copyfile(source / name, workspace.path(name))
    config = resolve(preset=spec["preset"], overrides=spec["settings"])
    names = [stage.name for stage in STAGES]
    for stage in STAGES[names.index("generate") + 1 : names.index("merge") + 1]:
        run_stage(stage, workspace, config, Runtime(report=LogLines()))
    decision = workspace.load(MergeSweep).decision
    Path(result_path).write_text(json.dumps({"alpha": decision.alpha, "ship": decision.ship}), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
