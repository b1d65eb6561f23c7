"""Upload of the shipped model and its card to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import httpx
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from embedfit.config import load
from embedfit.errors import ArtifactMissing, EmbedfitError, UsageError
from embedfit.llm.licences import permitted, writers
from embedfit.path.workspace import Workspace
from embedfit.progress import Reporter, Silent
from embedfit.reporting import card
from embedfit.reporting.evidence import Evidence, gather

LOGIN = "Run: hf auth login  (or set HF_TOKEN to a token that may write)"


class Hub(Protocol):
    """The two calls of huggingface_hub.HfApi that push makes."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> object:
        """Make a repository."""

    def create_commit(self, repo_id: str, operations: list[CommitOperationAdd], *, commit_message: str) -> object:
        """Add files. Returns an object with the repository's address in `repo_url`."""


def push(
    workspace: Workspace,
    repo_id: str,
    *,
    private: bool = True,
    token: str | None = None,
    hub: Hub | None = None,
    report: Reporter | None = None,
) -> str:
    """Upload merged/ of a run, with a card that names the repository, as one commit. Returns the address.

    repo_id: OWNER/NAME. A new repository is made if there is none, private unless `private` is False. token: default:
    that of `hf auth login` or HF_TOKEN. Raises UsageError for a bad repo_id, ArtifactMissing for an unfinished run,
    EmbedfitError if the run kept the base, and if the Hub can't be reached or refuses. The log says what the licences
    of the language models ask, and names a repository that they permit.
    """
    log = (report or Silent()).log
    owner, slash, _ = repo_id.partition("/")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UsageError(
            f"{repo_id!r} is no name of a repository: {error}", remedy="For example: my-team/my-model"
        ) from error
    if not slash or not owner:
        raise UsageError(f"{repo_id!r} has no owner.", remedy="For example: my-team/my-model")
    folder = workspace.existing("merged")
    evidence = gather(workspace, load(workspace.existing("embedfit.toml")))
    if evidence.summary.decision.ship == "base":
        raise EmbedfitError(
            f"{workspace.root} kept the base model: merged/ holds the base's weights, so nothing is new.",
            remedy=f"Use {evidence.config.model} itself. The report says why: {workspace.path('report.html')}",
        )
    readme = card.render(evidence, model_id=repo_id)
    for sentence in _licences(evidence, repo_id):
        log(f"push: {sentence}")
    operations = [CommitOperationAdd("README.md", readme.encode())]
    operations += [CommitOperationAdd(name, str(folder / name)) for name in _files(folder)]
    with _hub_errors(repo_id):
        if hub is None:
            hub = HfApi(token=token, library_name="embedfit")
        log(f"push: {len(operations)} files to {repo_id}, {'private' if private else 'public'} where it is new")
        hub.create_repo(repo_id, private=private, exist_ok=True)
        commit = hub.create_commit(repo_id, operations, commit_message="Upload the model with embedfit")
    return str(getattr(commit, "repo_url", "") or f"https://huggingface.co/{repo_id}")


def _licences(evidence: Evidence, repo_id: str) -> Iterator[str]:
    """What the licences of the language models ask of the tuned model, and a name that they permit."""
    found = writers(card.language_models(evidence))
    for one in found:
        if one.licence is None or one.licence.asks:
            yield one.sentence
    owner, _, name = repo_id.partition("/")
    if (better := permitted(name, found)) != name:
        yield (
            f"{name} does not begin as such a licence asks. Before others can get it, name it so: "
            f"embedfit push --run {evidence.root} {owner}/{better}"
        )


def _files(folder: Path) -> list[str]:
    """The files of a model folder to upload, without hidden files, temporary ones and the local card."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = [path for path in files if not any(part.startswith(".") for part in path.parts)]
    if not any(path.name == "model.safetensors" for path in kept):
        raise ArtifactMissing(f"{folder} has no model.safetensors.", remedy="Run: embedfit merge --run RUN --force")
    return sorted(path.as_posix() for path in kept if path.as_posix() != "README.md")


@contextmanager
def _hub_errors(repo_id: str) -> Iterator[None]:
    """Turns the Hub's failures into errors with a remedy. No message holds a token."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise EmbedfitError("The Hugging Face Hub needs a token, and there is none.", remedy=LOGIN) from error
    except OfflineModeIsEnabled as error:
        raise EmbedfitError(
            "The Hugging Face Hub is switched off by HF_HUB_OFFLINE.", remedy="Run again without HF_HUB_OFFLINE."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403):
            raise EmbedfitError(
                f"The Hugging Face Hub does not let you write to {repo_id} ({status}).", remedy=LOGIN
            ) from error
        raise EmbedfitError(
            f"The Hugging Face Hub answered {status or 'no status'} for {repo_id}.", remedy="Try again later."
        ) from error
    except (httpx.TransportError, ConnectionError, TimeoutError) as error:
        raise EmbedfitError(
            f"The Hugging Face Hub can't be reached: {type(error).__name__}.",
            remedy="Check the network, or copy the folder merged/ by other means: it is complete.",
        ) from error
