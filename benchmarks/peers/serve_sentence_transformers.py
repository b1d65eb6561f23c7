"""The server that people write first: FastAPI around SentenceTransformer.encode. Run in an environment of its own."""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

model = SentenceTransformer(sys.argv[1], device="cpu")
app = FastAPI()


class Request(BaseModel):
    """OpenAI's form, as far as this server knows it."""

    input: list[str]
    model: str = ""


@app.post("/v1/embeddings")
def embed(request: Request) -> dict[str, object]:
    """A plain function: FastAPI runs it in its pool of threads."""
    vectors = model.encode(request.input, normalize_embeddings=True, show_progress_bar=False)
    return {"data": [{"index": index, "embedding": row.tolist()} for index, row in enumerate(vectors)]}


@app.get("/health")
def health() -> dict[str, str]:
    """Ready."""
    return {"status": "ok"}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
