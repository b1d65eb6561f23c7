"""Documents to a tuned model with pypdf, transformers and sentence-transformers, as their guides do it: SPEC RESULT.

end_to_end.py runs it in an environment of its own.
"""

import json
import random
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from pypdf import PdfReader
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.evaluation import InformationRetrievalEvaluator
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.util import mine_hard_negatives
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "Write one search query that this passage answers. Reply with the query alone.\n\nPassage: {}"
SEED = 13


def passages_of(documents: list[str], words: int) -> list[str]:
    """Chunks of so many words of PDFs; the passages of a BEIR corpus as they are."""
    found = []
    for document in documents:
        if document.endswith(".jsonl"):
            rows = [json.loads(line) for line in Path(document).read_text("utf-8").splitlines()]
            found += [f"{row.get('title') or ''} {row['text']}".strip() for row in rows]
            continue
        text = "\n".join(page.extract_text() for page in PdfReader(document).pages).split()
        found += [" ".join(text[start : start + words]) for start in range(0, len(text), words)]
    return found


@torch.inference_mode()
def written(folder: str, passages: list[str], count: int) -> list[tuple[str, str]]:
    """(query, passage) by generate() in batches of 16 of like length, two sampled queries a prompt."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    chosen = random.Random(SEED).sample(passages, min(len(passages), -(-count // 2)))
    chosen.sort(key=len)
    pairs: list[tuple[str, str]] = []
    for start in range(0, len(chosen), 16):
        batch = chosen[start : start + 16]
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": PROMPT.format(passage)}], tokenize=False, add_generation_prompt=True
            )
            for passage in batch
        ]
        ids = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        replies = model.generate(
            **ids, do_sample=True, temperature=0.7, top_p=0.95, max_new_tokens=40, num_return_sequences=2,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        texts = tokenizer.batch_decode(replies[:, ids["input_ids"].shape[1] :], skip_special_tokens=True)
        pairs += [(text.strip().split("\n")[0], batch[place // 2]) for place, text in enumerate(texts)]
    return [pair for pair in pairs if pair[0]][:count]


def evaluator(pairs: list[tuple[str, str]], passages: list[str]) -> InformationRetrievalEvaluator:
    """Held-out queries against all passages."""
    number = {passage: str(place) for place, passage in enumerate(passages)}
    return InformationRetrievalEvaluator(
        queries={f"q{place}": query for place, (query, _) in enumerate(pairs)},
        corpus={key: passage for passage, key in number.items()},
        relevant_docs={f"q{place}": {number[passage]} for place, (_, passage) in enumerate(pairs)},
        show_progress_bar=False,
    )


def main(spec_path: str, result_path: str) -> None:
    spec = json.loads(Path(spec_path).read_text("utf-8"))
    torch.manual_seed(SEED)
    stages: dict[str, float] = {}
    clock = time.perf_counter()

    def done(step: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        stages[step] = round(stages.get(step, 0.0) + now - clock, 1)
        clock = now

    passages = list(dict.fromkeys(passages_of(spec["documents"], spec["words"])))
    done("read")
    pairs = written(spec["writer"], passages, spec["queries"])
    done("write queries")
    held_out = set(random.Random(SEED).sample(passages, len(passages) // 5))
    test = [pair for pair in pairs if pair[1] in held_out]
    train = [pair for pair in pairs if pair[1] not in held_out]
    model = SentenceTransformer(spec["model"], device="cpu")
    judge = evaluator(test, passages)
    before = judge(model)
    done("evaluate and report")
    rows = Dataset.from_dict({"anchor": [query for query, _ in train], "positive": [text for _, text in train]})
    rows = mine_hard_negatives(rows, model, num_negatives=1, range_min=1, range_max=50, use_faiss=False, verbose=False)
    done("mine")
    arguments = SentenceTransformerTrainingArguments(
        output_dir=spec["out"],
        num_train_epochs=1,
        max_steps=spec["max_steps"] or -1,
        per_device_train_batch_size=16,
        learning_rate=2e-5,
        warmup_steps=0.1,
        batch_sampler="no_duplicates",
        save_strategy="no",
        report_to=[],
        seed=SEED,
        use_cpu=True,
    )
    SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=rows, loss=MultipleNegativesRankingLoss(model)
    ).train()
    model.save_pretrained(spec["out"])
    done("train")
    after = judge(model)
    done("evaluate and report")
    score = next(name for name in before if name.endswith("cosine_ndcg@10"))
    result = {
        "stages": stages,
        "asked": spec["queries"],
        "kept": len(pairs),
        "passages": len(passages),
        "ndcg@10": {"before": before[score], "after": after[score], "queries": len(test)},
    }
    Path(result_path).write_text(json.dumps(result), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
