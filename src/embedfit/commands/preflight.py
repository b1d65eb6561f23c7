"""What a run would refuse only after its queries are paid for, refused before it begins."""

from __future__ import annotations

from embedfit.config import ARRAYS, Config
from embedfit.errors import UsageError
from embedfit.models.layout.prompts import open_model
from embedfit.path.workspace import Workspace
from embedfit.runtime import Runtime


def refuse_hopeless(workspace: Workspace, config: Config) -> None:
    """Raise an error with a remedy if mine or train would refuse the model and the settings, whatever the documents."""
    # These load torch, and a command that finds nothing to do never comes here.
    from embedfit.judging.opening import NAME_A_JUDGE
    from embedfit.training.losses.loss import loss_named
    from embedfit.training.trunk import check_trainable

    folder, layout = open_model(config.model, config.query_instruction)
    if folder.resolve().is_relative_to(workspace.root.resolve()):
        raise UsageError(
            f"The model {config.model} lies in the run folder {workspace.root}, whose stages write it anew.",
            remedy="To continue from a run's model, name another folder: --run NEW",
        )
    check_trainable(layout, config.model, config.training)
    if config.mine.teacher == "judge" and config.generate.judge is None:
        raise UsageError("mine.teacher=judge needs a judge.", remedy=NAME_A_JUDGE)
    if loss_named(config.training.loss).needs_scores and config.mine.teacher == "none" and not config.mine.negatives:
        raise UsageError(
            f"train.loss={config.training.loss} learns from the scores of a row's negatives, and mine.negatives=0 "
            "gives a row none.",
            remedy="For example: --set mine.negatives=4, or --set train.loss=infonce",
        )


def refuse_silent_embedder(workspace: Workspace, config: Config, runtime: Runtime) -> None:
    """Raise an error if the embedder of an adaptation gives no vectors. One that bills is opened and asked nothing."""
    from embedfit.embedders.arrays import ArrayEmbedder
    from embedfit.embedders.registry import bills, open_embedder, opened_embedders
    from embedfit.models.store.vectors import PROBES

    vectors = str(config.adapt.vectors)
    if vectors.startswith(ARRAYS):
        ArrayEmbedder(vectors, passages={}, questions={})
        return
    with opened_embedders() as opened:
        opened[vectors] = embedder = open_embedder(vectors, runtime, run=str(workspace.root.resolve()))
        if not bills(vectors):
            embedder.embed(PROBES[:1], is_query=True)
            embedder.release()
