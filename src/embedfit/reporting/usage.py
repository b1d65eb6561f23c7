"""Code that readers copy: load, search with BM25, serve, deploy, push. Tests run it."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from embedfit.config import WINDOW_TOKENS
from embedfit.models.sources import EMBEDDERS
from embedfit.reporting.evidence import Evidence
from embedfit.retrieval.fusion import parts_of

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


_STANDARDISED = """\
def standardised(scores):
    return (scores - scores.mean()) / max(scores.std(), 1e-9)
"""
_RECIPROCAL = """\
def reciprocal_rank(scores):
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return 1 / (60 + ranks)
"""
_SEARCH = """\
import json

{imports}

# Passages by id: these are the run's; put yours here.
with open({passages}, encoding="utf-8") as lines:
    rows = [json.loads(line) for line in lines]
passages = {{row["passage_id"]: f"{{row['title']}} {{row['text']}}".strip() for row in rows}}
ids = list(passages)

model = SentenceTransformer({model})
{vectors}
{index}


{function}

def search(query, k=10):
    dense = {found}
{asked}
    fused = {dense:g} * {fused_dense} + {lexical:g} * {fused_lexical}
    return [(ids[i], float(fused[i])) for i in np.argsort(-fused, kind="stable")[:k]]


for passage_id, score in search("what you search for", k=3):
    print(f"{{score:.3f}}  {{passage_id}}: {{passages[passage_id][:100]}}")
"""


# What BM25 needs of English passages, with bm25s alone; and of others, whose rules embedfit.retrieval.words has.
_ENGLISH = {
    "imports": """\
import bm25s
import numpy as np
import Stemmer
from sentence_transformers import SentenceTransformer""",
    "index": """\
stemmer = Stemmer.Stemmer("english")


def words(text):
    return bm25s.tokenize([text], stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)[0]


bm25 = bm25s.BM25()
bm25.index([words(text) for text in passages.values()], show_progress=False)""",
    "asked": """\
    asked = words(query)
    lexical = bm25.get_scores(asked) if asked else np.zeros(len(ids))""",
}
_ANY_LANGUAGE = {
    "imports": """\
import numpy as np
from embedfit.retrieval.bm25 import Bm25
from sentence_transformers import SentenceTransformer""",
    "index": "bm25 = Bm25(list(passages.values()))",
    "asked": "    lexical = bm25.scores(query)",
}
_VECTORS = "vectors = model.encode_document(list(passages.values()), normalize_embeddings=True)"
_WINDOW_VECTORS = """\
vectors = np.load("windows.npy")  # of the same passages
with open("windows.windows.jsonl", encoding="utf-8") as lines:
    starts = np.unique([json.loads(line)["passage"] for line in lines], return_index=True)[1]"""
_COSINES = "vectors @ model.encode_query(query, normalize_embeddings=True)"


def hybrid(
    model: str, passages: str, method: str, weight: float, *, windows: bool = False, english: bool = True
) -> str:
    """The model and BM25 together, fused as the evaluation did it; English ones without embedfit.

    passages: path of a passages.jsonl. method: of merge.json's fusion; weight: of the dense scores. windows: with the
    vectors that `embedfit encode --windows` wrote of these passages.
    """
    if method == "weighted_sum":
        parts = (_STANDARDISED, "standardised(dense)", "standardised(lexical)")
    else:
        parts = (_RECIPROCAL, "reciprocal_rank(dense)", "np.where(lexical > 0, reciprocal_rank(lexical), 0)")
    function, fused_dense, fused_lexical = parts
    return _SEARCH.format(
        model=json.dumps(model),
        passages=json.dumps(passages),
        vectors=_WINDOW_VECTORS if windows else _VECTORS,
        found=f"np.maximum.reduceat({_COSINES}, starts)" if windows else _COSINES,
        function=function,
        **(_ENGLISH if english else _ANY_LANGUAGE),
        dense=weight,
        lexical=1 - weight,
        fused_dense=fused_dense,
        fused_lexical=fused_lexical,
    )


_WINDOWS = """\
import json

import numpy as np
from sentence_transformers import SentenceTransformer

model = SentenceTransformer({model})
vectors = np.load("windows.npy")
with open("windows.windows.jsonl", encoding="utf-8") as lines:
    windows = [json.loads(line) for line in lines]


def search(query, k=10):
    scores = vectors @ model.encode_query(query, normalize_embeddings=True)
    best = {{}}
    for row in np.argsort(-scores, kind="stable"):
        best.setdefault(windows[row]["passage"], (float(scores[row]), windows[row]["text"]))
        if len(best) == k:
            break
    return best


for passage, (score, text) in search("what you search for", k=3).items():
    print(f"{{score:.3f}}  passage {{passage}}: {{text[:100]}}")
"""


def windowed(model: str) -> str:
    """Search among the vectors that `embedfit encode --windows` wrote; the best window of a passage counts."""
    return _WINDOWS.format(model=json.dumps(model))


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


def _search_by_windows(evidence: Evidence, model: str, run: str) -> list[Snippet]:
    if "merged_windowed" not in evidence.systems:
        return []
    return [
        Snippet(
            title="Index several vectors a passage",
            note="One for every window of it, as in the rows “windowed” above. In a vector database each row is a "
            "record with its passage’s number; ask for more neighbours than you need and keep the first of each "
            "passage.",
            language="shell",
            code=f"embedfit encode {shlex.quote(model)} --input {run}/passages.jsonl --output windows.npy --windows"
            f" --window-tokens {evidence.config.evaluate.windows or WINDOW_TOKENS}\n",
        ),
        Snippet(title="Search among them", note="", language="python", code=windowed(model)),
        Snippet(
            title="Search among them with BM25 beside it",
            note="Fused as in the row “Windowed + BM25” above.",
            language="python",
            code=_hybrid(evidence, model, windows=True),
        ),
    ]


def _hybrid(evidence: Evidence, model: str, *, windows: bool) -> str:
    method, weight = parts_of(evidence.fusion, windowed=windows)
    return hybrid(
        model, f"{evidence.root}/passages.jsonl", method, weight, windows=windows, english=_is_english(evidence)
    )


def _is_english(evidence: Evidence) -> bool:
    return evidence.languages == ("en",)


def snippets(evidence: Evidence) -> list[Snippet]:
    """Everything under "Use it", for the model that ships."""
    model = shipped_model(evidence)
    folder = model.startswith(evidence.root)
    kept = "" if evidence.decision.ship != "base" else " merged/ holds the base’s weights here, unchanged."
    tuned = evidence.decision.ship != "base"
    run = shlex.quote(evidence.root)
    needs = "sentence-transformers, bm25s and PyStemmer, no embedfit"
    if not _is_english(evidence):
        needs = "sentence-transformers and, for the words of these languages, embedfit"
    found = [
        Snippet(
            title="Load it",
            note=f"An ordinary sentence-transformers model; its query instruction, where it has one, is inside.{kept}",
            language="python",
            code=loading(model),
        ),
        Snippet(
            title="Search with BM25 beside it",
            note=f"Fused as in the rows “+ BM25” above; needs {needs}. "
            f'To try it at once: embedfit search --run {run} "…"',
            language="python",
            code=_hybrid(evidence, model, windows=False),
        ),
        *_search_by_windows(evidence, model, run),
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
