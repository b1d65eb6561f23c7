"""Code for readers to copy: index, search, serve, load, deploy, push. It is in templates/usage, and tests run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from embedfit.models.sources import EMBEDDERS
from embedfit.reporting.evidence import Evidence
from embedfit.reporting.rendering import environment


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """A piece of code with a title and a note."""

    title: str
    note: str
    language: Literal["python", "shell"]
    code: str


#: Under "Use it": the file in templates/usage, the title, the note. The last two appear only if a tuned model ships.
_SHOWN = (
    ("index.sh", "Build the index and search it", "The retriever that ships, as the rows above measure it."),
    ("search.py", "Search from Python", ""),
    (
        "retriever.py",
        "Search from LangChain",
        "For LlamaIndex: embedfit.integrations.llamaindex.EmbedfitRetriever.",
    ),
    (
        "serve.sh",
        "Serve it",
        "A page to try it at /, /search, and vectors by the protocols of Text Embeddings Inference and of OpenAI.",
    ),
    (
        "load.py",
        "Load the model alone",
        "An ordinary sentence-transformers model; its query instruction, where it has one, is inside.",
    ),
    ("tei.sh", "Serve the model with Text Embeddings Inference", ""),
    ("langchain.py", "Use the model in LangChain", ""),
    (
        "deploy.sh",
        "Deploy the model on SageMaker",
        "The plan lists every call and its price, and changes nothing.",
    ),
    (
        "push.sh",
        "Share the model on the Hugging Face Hub",
        "Private unless you say --no-private. The model card holds numbers, no text of your documents.",
    ),
)


def hub_id(model: str) -> str | None:
    """The hub id of an embedding model's name, or None for a path."""
    if model in EMBEDDERS:
        return EMBEDDERS[model].hub_id
    owner, slash, name = model.partition("/")
    plain = slash and owner and name and "/" not in name and not model.startswith((".", "~", "/"))
    return model if plain else None


def shipped_model(evidence: Evidence) -> str:
    """The argument for SentenceTransformer(...): the folder merged/, or the base's name if merged/ holds other weights.

    merged/ holds the fine-tuned weights at weight 1, and the base's at weight 0, with the query instruction that the
    base's own folder often lacks.
    """
    decision = evidence.summary.decision
    if decision.ship == "base" and decision.alpha != 0:
        return hub_id(evidence.config.model) or evidence.config.model
    return f"{evidence.root}/merged"


def code(name: str, *, model: str = "", run: str = "", folder: bool = False, towers: bool = False) -> str:
    """The code of a file in templates/usage.

    model: a hub id, or a path if `folder` is set; towers: it has one for queries and one for passages. run: a run's
    folder.
    """
    template = environment(escapes=False).get_template(f"usage/{name}.j2")
    return template.render(model=model, run=run, folder=folder, towers=towers)


#: Notes on a model of two towers, in place of those above.
_NOTES_OF_TOWERS = {
    "load.py": "A sentence-transformers model of two towers: encode_query and encode_document each take theirs.",
    "tei.sh": "A server for queries, and one for passages. A query map needs Text Embeddings Inference 1.8.3 or later.",
    "deploy.sh": "The endpoint gets the tower of queries. The plan lists each call and its price, and changes nothing.",
}


def snippets(evidence: Evidence) -> list[Snippet]:
    """Everything under "Use it", for the retriever and the model that ship."""
    model, base_ships = shipped_model(evidence), evidence.summary.decision.ship == "base"
    folder = model.startswith(evidence.root)
    towers = folder and evidence.layout is not None and evidence.layout.queries is not None
    return [
        Snippet(
            title=title,
            note=f"{note} merged/ holds the base’s weights here, unchanged."
            if base_ships and name == "load.py"
            else (_NOTES_OF_TOWERS.get(name, note) if towers else note),
            language="python" if name.endswith(".py") else "shell",
            code=code(name, model=model, run=evidence.root, folder=folder, towers=towers),
        )
        for name, title, note in (_SHOWN[:-2] if base_ships else _SHOWN)
    ]
