import re
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled
from sentence_transformers import SentenceTransformer

from embedfit.errors import ArtifactMissing, EmbedfitError, UsageError
from embedfit.path.artefacts import Summary
from embedfit.reporting.push import push
from embedfit.testing.tiny_model import make_tiny_bert
from tests.models.tiny_towers import SHAPES
from tests.said import Said


class FakeHub:
    """Remembers what it was given."""

    def __init__(self, failure=None):
        self.failure, self.created, self.commits = failure, [], []

    def create_repo(self, repo_id, *, private, exist_ok):
        if self.failure:
            raise self.failure
        self.created.append((repo_id, private, exist_ok))

    def create_commit(self, repo_id, operations, *, commit_message):
        self.commits.append((repo_id, {op.path_in_repo: op for op in operations}, commit_message))


def refused(status):
    request = httpx.Request("POST", "https://hub.invalid/api")
    return HfHubHTTPError("no", response=httpx.Response(status, request=request))


@pytest.fixture
def finished(run_copy):
    return run_copy()[0]


def test_one_commit_holds_the_model_and_a_card_that_names_the_repository(finished):
    (finished.path("merged") / ".cache").mkdir()
    (finished.path("merged") / ".cache" / "secret").write_text("x")
    hub = FakeHub()
    assert push(finished, "me/tuned", hub=hub) == "https://huggingface.co/me/tuned"
    assert hub.created == [("me/tuned", True, True)]
    ((repo_id, files, _),) = hub.commits
    assert repo_id == "me/tuned"
    assert set(files) == {
        "README.md", "config.json", "embedfit.json", "modules.json", "1_Pooling/config.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "vocab.txt",
    }  # fmt: skip
    assert b"SentenceTransformer('me/tuned')" in files["README.md"].path_or_fileobj


@pytest.mark.parametrize("shape", SHAPES)
def test_both_towers_are_pushed(finished, shape, tmp_path):
    merged = finished.path("merged")
    shutil.rmtree(merged)
    SHAPES[shape](make_tiny_bert(tmp_path / "base"), finished.root)
    hub = FakeHub()
    push(finished, "me/tuned", hub=hub)
    ((_, files, _),) = hub.commits
    for name, operation in files.items():  # what a reader of the hub gets
        target = tmp_path / "downloaded" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        given = operation.path_or_fileobj
        target.write_bytes(given if isinstance(given, bytes) else Path(given).read_bytes())
    assert b"It has two towers" in files["README.md"].path_or_fileobj
    assert set(files) > {"modules.json", "router_config.json", "query/model.safetensors", "document/model.safetensors"}
    theirs, ours = (SentenceTransformer(str(path), device="cpu") for path in (tmp_path / "downloaded", merged))
    np.testing.assert_allclose(theirs.encode_query(["mute"]), ours.encode_query(["mute"]))


def test_public_only_when_asked(finished):
    hub = FakeHub()
    push(finished, "me/tuned", private=False, hub=hub)
    assert hub.created[0][1] is False


@pytest.mark.parametrize("name", ["no-owner", "/x", "a/b/c", "me/..", "me/<script>"])
def test_a_name_that_can_be_none_is_refused_before_anything_is_asked(finished, name):
    hub = FakeHub()
    with pytest.raises(UsageError):
        push(finished, name, hub=hub)
    assert hub.created == []


@pytest.mark.parametrize(
    ("failure", "message", "remedy"),
    [
        (LocalTokenNotFoundError("none"), "needs a token", "hf auth login"),
        (refused(401), "does not let you write", "hf auth login"),
        (refused(403), "does not let you write", "hf auth login"),
        (refused(503), "answered 503", "later"),
        (OfflineModeIsEnabled("off"), "HF_HUB_OFFLINE", "without"),
        (httpx.ConnectError("no route"), "can't be reached", "network"),
    ],
)
def test_failures_of_the_hub_have_a_remedy(finished, failure, message, remedy):
    with pytest.raises(EmbedfitError, match=message) as caught:
        push(finished, "me/tuned", hub=FakeHub(failure))
    assert remedy in caught.value.remedy


def test_a_token_is_in_no_message(finished):
    with pytest.raises(EmbedfitError) as caught:
        push(finished, "me/tuned", token="hf_very_secret", hub=FakeHub(refused(401)))
    assert "hf_very_secret" not in str(caught.value)


def test_a_run_that_kept_its_base_has_nothing_to_share(run_copy):
    workspace, _ = run_copy(human=False, ship=False)
    hub = FakeHub()
    with pytest.raises(EmbedfitError, match="kept the base"):
        push(workspace, "me/tuned", hub=hub)
    assert hub.commits == []


@pytest.mark.parametrize("name", ["merged", "summary.json", "merged/model.safetensors"])
def test_an_unfinished_run_is_refused(run_copy, name):
    workspace, _ = run_copy()
    workspace.path(name).rename(workspace.path("elsewhere"))
    with pytest.raises(ArtifactMissing):
        push(workspace, "me/tuned", hub=FakeHub())


def asked_by(workspace, *models):
    """A run whose calls these models answered."""
    summary = workspace.load(Summary)
    workspace.store(summary.model_copy(update={"cost": summary.cost.model_copy(update={"models": models})}))
    return workspace


def test_a_name_that_the_writers_licence_forbids_is_pushed_with_the_name_that_it_asks_for(finished):
    hub, said = FakeHub(), Said()
    push(asked_by(finished, "bedrock:meta.llama3-70b-instruct-v1:0"), "me/manuals", hub=hub, report=said)
    assert hub.commits
    told = " ".join(said.lines)
    assert "https://www.llama.com/llama3/license/" in told
    remedy = re.search(r"embedfit push --run (\S+) (\S+)", told)
    again = Said()
    push(finished, remedy[2], hub=hub, report=again)
    assert (remedy[1], remedy[2]) == (finished.root.as_posix(), "me/Llama-3-manuals")
    assert "does not begin" not in " ".join(again.lines)


def test_a_writer_whose_licence_asks_nothing_is_not_spoken_of(finished):
    said = Said()
    push(asked_by(finished, "local:SmolLM2-135M-Instruct.Q4_1.gguf"), "me/manuals", hub=FakeHub(), report=said)
    assert [line for line in said.lines if "SmolLM2" in line or "licence" in line] == []


def test_an_unknown_writer_is_named_with_what_to_do(finished):
    said = Said()
    push(asked_by(finished, "recorded:strong.jsonl@0123456789ab"), "me/manuals", hub=FakeHub(), report=said)
    assert any("the model that wrote strong.jsonl: read what its licence asks" in line for line in said.lines)
