"""Code that readers copy: load, search with BM25, serve, deploy, push. Tests run it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from embedfit.models.sources import EMBEDDERS
from embedfit.reporting.evidence import Evidence

TEI_IMAGE = "ghcr.io/huggingface/text-embeddings-inference:cpu-1.9"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """A piece of code with what it does. language: "python" or "shell"."""

    title: str
    note: str
    language: str
    code: str


def hub_id(model: str) -> str | None:
    """The hub id of an embedding model's name, or None for a path."""
    if model in EMBEDDERS:
        return EMBEDDERS[model].hub_id
    owner, slash, name = model.partition("/")
    plain = slash and owner and name and "/" not in name and not model.startswith((".", "~", "/"))
    return model if plain else None


def shipped_model(evidence: Evidence) -> str:
    """What to give SentenceTransformer(...).

    merged/ holds the fine-tuned weights at weight 1 and the base's at weight 0, then with the query
    instruction that the base's own folder often lacks.
    """
    if evidence.decision.ship == "base" and evidence.decision.alpha != 0:
        return hub_id(evidence.config.model) or evidence.config.model
    return f"{evidence.root}/merged"


def loading(model: str) -> str:
    """Sentence-transformers; the query instruction is in the folder."""
    return (
        "from sentence_transformers import SentenceTransformer\n"
        "\n"
        f"model = SentenceTransformer({model!r})\n"
        'queries = model.encode_query(["what you search for"])      # with the query instruction, if there is one\n'
        'passages = model.encode_document(["title and text of a passage"])\n'
        "print(model.similarity(queries, passages))\n"
    )


def langchain(model: str) -> str:
    """LangChain, with what embedfit ships for it."""
    return (
        "from embedfit.integrations.langchain import EmbedfitEmbeddings\n"
        "\n"
        f"embeddings = EmbedfitEmbeddings({model!r})\n"
        'vector = embeddings.embed_query("what you search for")\n'
    )


def langchain_alone(model: str) -> str:
    """LangChain without embedfit, for those who only have the model. The prompt is in the folder."""
    return (
        "from langchain_huggingface import HuggingFaceEmbeddings\n"
        "\n"
        "embeddings = HuggingFaceEmbeddings(\n"
        f"    model_name={model!r},\n"
        '    encode_kwargs={"normalize_embeddings": True},\n'
        '    query_encode_kwargs={"normalize_embeddings": True, "prompt_name": "query"},\n'
        ")\n"
        'vector = embeddings.embed_query("what you search for")\n'
    )


def hybrid(model: str, method: str, weight: float) -> str:
    """The model and BM25 together, fused as the evaluation did it."""
    fuse = "reciprocal_rank" if "recip" in method or "rrf" in method or not method else "weighted_sum"
    return (
        "import numpy as np\n"
        "from sentence_transformers import SentenceTransformer\n"
        "\n"
        "from embedfit.retrieval.bm25 import Bm25\n"
        f"from embedfit.retrieval.fusion import {fuse}\n"
        "\n"
        'passages = ["title and text of a passage", "of another", "…"]\n'
        f"model = SentenceTransformer({model!r})\n"
        "vectors = model.encode_document(passages, normalize_embeddings=True)\n"
        "bm25 = Bm25(passages)\n"
        "\n"
        "\n"
        "def search(query, k=10):\n"
        "    dense = vectors @ model.encode_query(query, normalize_embeddings=True)\n"
        f"    fused = {fuse}(dense, bm25.scores(query), weight={weight:g})\n"
        "    return [(passages[i], float(fused[i])) for i in np.argsort(-fused)[:k]]\n"
    )


def tei(model: str, *, folder: bool) -> str:
    """Text Embeddings Inference in Docker, asked with the query prompt."""
    here = "" if model.startswith("/") else '"$PWD"/'  # Docker takes absolute paths only
    volume = f" -v {here}{shlex.quote(model)}:/model" if folder else ""
    name = "/model" if folder else shlex.quote(model)
    return (
        f"docker run -p 8080:80{volume} \\\n"
        f"  {TEI_IMAGE} --model-id {name}\n"
        "curl localhost:8080/embed -H 'Content-Type: application/json' \\\n"
        """  -d '{"inputs": "what you search for", "prompt_name": "query"}'\n"""
    )


def snippets(evidence: Evidence) -> list[Snippet]:
    """Everything under "Use it", for the model that ships."""
    model = shipped_model(evidence)
    folder = model.startswith(evidence.root)
    kept = "" if evidence.decision.ship != "base" else " merged/ holds the base’s weights here, unchanged."
    tuned = evidence.decision.ship != "base"
    run = shlex.quote(evidence.root)
    fusion = evidence.fusion
    found = [
        Snippet(
            title="Load it",
            note=f"An ordinary sentence-transformers model; its query instruction, where it has one, is inside.{kept}",
            language="python",
            code=loading(model),
        ),
        Snippet(
            title="Search with BM25 beside it",
            note="Fused as in the rows “+ BM25” above.",
            language="python",
            code=hybrid(model, str(fusion.get("method", "")), float(fusion.get("weight", 0.5))),
        ),
        Snippet(
            title="Serve it",
            note="embedfit’s own server speaks the protocols of Text Embeddings Inference and of OpenAI.",
            language="shell",
            code=f"embedfit serve {shlex.quote(model)} --port 8080\n",
        ),
        Snippet(
            title="Serve it with Text Embeddings Inference", note="", language="shell", code=tei(model, folder=folder)
        ),
        Snippet(title="Use it in LangChain", note="", language="python", code=langchain(model)),
    ]
    if tuned:
        found.append(
            Snippet(
                title="Deploy it on SageMaker",
                note="The plan lists every call and its price, and changes nothing.",
                language="shell",
                code="".join(
                    f"embedfit deploy sagemaker {words}\n"
                    for words in (f"plan {run}", f"apply {run}", f"test {shlex.quote(model)}", f"destroy {run}")
                ),
            )
        )
        found.append(
            Snippet(
                title="Share it on the Hugging Face Hub",
                note="Private unless you say --no-private. The model card holds numbers, no text of your documents.",
                language="shell",
                code=f"embedfit push --run {run} YOUR-NAME/MODEL-NAME\n",
            )
        )
    return found
