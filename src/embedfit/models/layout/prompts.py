"""The texts put before queries and passages, and those that models' authors prescribe, with sources.

The first that there is counts: the user's instruction; the prompts in the folder; the authors' for the model's name; no
prompt. A base without its instruction looks worse than it is, and makes any tuning look good.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from embedfit.models.architecture import PASSAGE_PROMPTS, Architecture
from embedfit.models.layout.reading import read_architecture
from embedfit.models.sources import EMBEDDERS, resolve_model


class Prescribed(NamedTuple):
    """The texts that the authors of some models put before queries and passages.

    names: a pattern that the name on the hub fits as a whole, without its owner. source: the page where the authors say
    so.
    """

    names: str
    source: str
    query: str
    passage: str = ""


_WEB_SEARCH = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_SENTENCE = "Represent this sentence for searching relevant passages: "

#: Read on the model cards and in the folders of the hub.
PRESCRIBED: tuple[Prescribed, ...] = (
    Prescribed(r"bge-(small|base|large)-en(-v1\.5)?",
               "model card of BAAI/bge-base-en-v1.5, Model List: query instruction for retrieval",
               _SENTENCE),
    Prescribed(r"bge-(small|base|large)-zh(-v1\.5)?",
               "model card of BAAI/bge-base-zh-v1.5, Model List: query instruction for retrieval",
               "为这个句子生成表示以用于检索相关文章："),
    Prescribed(r"multilingual-e5-large-instruct",
               "model card of intfloat/multilingual-e5-large-instruct: get_detailed_instruct, queries only",
               _WEB_SEARCH.replace("\nQuery:", "\nQuery: ")),
    Prescribed(r"e5-mistral-7b-instruct",
               "model card of intfloat/e5-mistral-7b-instruct: its prompt web_search_query, queries only",
               _WEB_SEARCH.replace("\nQuery:", "\nQuery: ")),
    Prescribed(r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?",
               "model card of intfloat/e5-base-v2: each input text should start with query: or passage:",
               "query: ", "passage: "),
    Prescribed(r"snowflake-arctic-embed-(xs|s|m|m-long|l|m-v1\.5)",
               "model card of Snowflake/snowflake-arctic-embed-m: query prefix",
               _SENTENCE),
    Prescribed(r"snowflake-arctic-embed-(m|l)-v2\.0",
               "model card of Snowflake/snowflake-arctic-embed-l-v2.0: query prefix",
               "query: "),
    Prescribed(r"(nomic-embed-text-v(1|1\.5|2-moe)|modernbert-embed-(base|large))",
               "model card of nomic-ai/nomic-embed-text-v1.5: task instruction prefixes",
               "search_query: ", "search_document: "),
    Prescribed(r"qwen3-embedding-(0\.6b|4b|8b)",
               "config_sentence_transformers.json of Qwen/Qwen3-Embedding-0.6B",
               _WEB_SEARCH),
    Prescribed(r"embeddinggemma-300m",
               "model card of google/embeddinggemma-300m: prompt instructions",
               "task: search result | query: ", "title: none | text: "),
    Prescribed(r"mxbai-embed-large-v1",
               "model card of mixedbread-ai/mxbai-embed-large-v1: prompt for retrieval queries",
               _SENTENCE),
    Prescribed(r"gte-((small|base|large)(-zh)?|(base|large)-en-v1\.5|multilingual-base|modernbert-base)",
               "model cards of thenlper/gte-base and Alibaba-NLP/gte-modernbert-base: no prefix",
               ""),
    Prescribed(r"bge-m3",
               "model card of BAAI/bge-m3: no instruction has to be added to queries",
               ""),
    Prescribed(r"all-(minilm-l(6|12)-v[12]|mpnet-base-v[12]|distilroberta-v1)",
               "model card of sentence-transformers/all-mpnet-base-v2: texts are encoded without a prefix",
               ""),
    Prescribed(r"granite-embedding-.*",
               "model card of ibm-granite/granite-embedding-english-r2: no prefix",
               ""),
)  # fmt: skip


def open_model(name: str, query_instruction: str | None = None) -> tuple[Path, Architecture]:
    """The folder of a model by alias, hub id or path, and its architecture with its right prompts.

    query_instruction: the user's, which replaces the right one. Raises ModelError.
    """
    folder = resolve_model(name)
    return folder, right_prompts(name, folder, read_architecture(folder)).with_prompts(query=query_instruction)


def right_prompts(name: str, folder: Path, layout: Architecture) -> Architecture:
    """The architecture with its own prompts, or with its authors' if the folder holds none."""
    if any(layout.prompts.get(role) for role in ("query", *PASSAGE_PROMPTS)) or layout.default_instruction:
        return layout
    found = prescribed(name, folder)
    if found is None:
        return layout
    return layout.with_prompts(query=found.query or None, document=found.passage or None)


def prescribed(name: str, folder: Path | None = None) -> Prescribed | None:
    """The authors' texts for a model of that name or in that folder, or None if we know none."""
    for known in _names(name, folder):
        for entry in PRESCRIBED:
            if re.fullmatch(entry.names, known, re.IGNORECASE):
                return entry
    return None


def _names(name: str, folder: Path | None) -> Iterator[str]:
    """The names on the hub, without their owners, that a model may have."""
    if name in EMBEDDERS:
        name = EMBEDDERS[name].hub_id
    for path in (Path(name), *((folder, folder.resolve()) if folder is not None else ())):
        snapshot = next((part for part in reversed(path.parts) if part.startswith("models--")), "")
        if snapshot.count("--") >= 2:  # the hub's cache: models--OWNER--NAME/snapshots/…
            yield snapshot.split("--", 2)[2]
    yield Path(name).name
    if folder is not None:
        yield Path(_name_or_path(folder)).name


def _name_or_path(folder: Path) -> str:
    for where in (folder, folder / "0_Transformer"):
        try:
            named = json.loads((where / "config.json").read_text("utf-8")).get("_name_or_path")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(named, str):
            return named.rstrip("/")
    return ""
