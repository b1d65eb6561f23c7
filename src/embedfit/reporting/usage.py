"""Code that readers copy: index, search, serve, load, deploy, push. Tests run it."""

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


def searching(run: str) -> str:
    """The run's index from Python."""
    return (
        "import embedfit\n"
        "\n"
        f"index = embedfit.load({run!r})\n"
        'for hit in index.search("what you search for", k=3):\n'
        '    print(f"{hit.score:.2f}  {hit.document}, page {hit.page}, {hit.heading}: {hit.text[:100]}")\n'
    )


def indexing(run: str) -> str:
    """From a run folder to hits, on the command line."""
    word = shlex.quote(run)
    return f'embedfit index --run {word}\nembedfit search --run {word} "what you search for"\n'


def searching_documents(model: str) -> str:
    """The retriever over any documents by a model that is named, without a run folder."""
    return (
        f"embedfit index DOCS --model {shlex.quote(model)} --to-folder my-index\n"
        'embedfit search --index my-index "what you search for"\n'
        "embedfit serve my-index\n"
    )


def snippets(evidence: Evidence) -> list[Snippet]:
    """Everything under "Use it", for the retriever and the model that ship."""
    model = shipped_model(evidence)
    folder = model.startswith(evidence.root)
    kept = "" if evidence.decision.ship != "base" else " merged/ holds the base’s weights here, unchanged."
    run = shlex.quote(evidence.root)
    found = [
        Snippet(
            title="Build the index and search it",
            note="The retriever that ships, as the rows above measure it.",
            language="shell",
            code=indexing(evidence.root),
        ),
        Snippet(title="Search from Python", note="", language="python", code=searching(evidence.root)),
        Snippet(
            title="Serve it",
            note="A page to try it at /, /search, and vectors by the protocols of Text Embeddings Inference and of "
            "OpenAI.",
            language="shell",
            code=f"embedfit serve {run} --port 8080\n",
        ),
        Snippet(
            title="Load the model alone",
            note=f"An ordinary sentence-transformers model; its query instruction, where it has one, is inside.{kept}",
            language="python",
            code=loading(model),
        ),
        Snippet(
            title="Serve the model with Text Embeddings Inference",
            note="",
            language="shell",
            code=tei(model, folder=folder),
        ),
        Snippet(title="Use the model in LangChain", note="", language="python", code=langchain(model)),
    ]
    if evidence.decision.ship != "base":
        found.append(
            Snippet(
                title="Deploy the model on SageMaker",
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
                title="Share the model on the Hugging Face Hub",
                note="Private unless you say --no-private. The model card holds numbers, no text of your documents.",
                language="shell",
                code=f"embedfit push --run {run} YOUR-NAME/MODEL-NAME\n",
            )
        )
    return found
