"""The generator "openvino": a GGUF file, or a folder in OpenVINO's own format, run by openvino-genai on the CPU."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from embedfit.errors import GeneratorError, MissingDependency, ModelError, first_line
from embedfit.llm.protocol import Failure, LanguageModel, Outcome, Reply, Request
from embedfit.llm.providers.local import GENERATOR as LOCAL
from embedfit.llm.providers.local.beginnings import Waiting
from embedfit.llm.providers.local.gguf import read_gguf
from embedfit.llm.providers.local.hash import content_hash
from embedfit.llm.providers.local.offsets import without_offsets
from embedfit.llm.providers.local.prefix import Tokens
from embedfit.models.sources import resolve_generator
from embedfit.numerics.machine import cores

if TYPE_CHECKING:
    from embedfit.config import GenerateConfig
    from embedfit.llm.opening import Outside

#: An object of openvino-genai's, of which a type checker knows no type.
Untyped: TypeAlias = Any

#: Replies written side by side.
_SIDE_BY_SIDE = 128
#: Tokens of one pass: prompts are read in pieces, between steps that write.
_PASS = 512
#: GiB of keys and values, those of beginnings that later prompts share included.
_CACHE_GIB = 1
#: "No limit" of the sampler's top_k; its default would be 50.
_ALL = 1 << 31
_CONVERT = "optimum-cli export openvino --model HUB_ID FOLDER"


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A pipeline and what its model says. specials: the texts of control tokens, the longest first."""

    pipeline: Untyped
    tokenizer: Untyped
    specials: tuple[str, ...]
    context: int


class OpenVinoGenerator(LanguageModel):
    """A language model on this machine's CPU: continuous batching, and each shared beginning is read once.

    path: a GGUF file, or a folder with openvino_model.xml. Nothing is loaded before the first use.

    A request's random numbers come from its seed and its prompt. Its company in a batch changes the order of sums, and
    so, now and then, a word; the ledger keeps each reply, so a run that goes on has the same queries.
    """

    provider = "openvino"
    price_provider = "local"
    counts_exactly = True
    takes_turns = False

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        if not self._path.is_file() and not is_folder(self._path):
            raise ModelError(
                f"{self._path} is no GGUF file and no folder with openvino_model.xml.",
                remedy="Give a GGUF file, or a folder made by: " + _CONVERT,
            )
        name = self._path.stem if self._path.is_file() else self._path.name
        self._content = content_hash(self._path)
        self.model = f"{name}@{self._content[:12]}"
        self._asked = 0

    def count_tokens(self, request: Request) -> int:
        """Tokens of the prompt, exactly."""
        return len(self._encode([request])[0])

    def complete(self, requests: Sequence[Request]) -> Iterator[tuple[int, Outcome]]:
        """Yield (index, outcome). Prompts that begin alike are sent one after the other, to share what was read."""
        if not requests:
            return
        prompts = self._encode(requests)
        fitting: dict[int, Tokens] = {}
        for index in sorted(range(len(requests)), key=lambda index: prompts[index]):
            if (failure := self._unfit(requests[index], prompts[index])) is None:
                fitting[index] = prompts[index]
            else:
                yield index, failure
        waiting = Waiting(fitting)
        running: dict[int, Untyped] = {}
        try:
            while waiting or running:
                for index in waiting.start(_SIDE_BY_SIDE - len(running)):
                    running[index] = self._started(requests[index], prompts[index])
                self._step()
                for index, handle in list(running.items()):
                    done = not _is_running(handle)
                    if done or handle.can_read():  # a token was written, so the prompt was read
                        waiting.was_read(index)
                    if done:
                        yield index, self._outcome(running.pop(index), requests[index], prompts[index])
        finally:
            for handle in running.values():
                handle.cancel()
            while self._loaded.pipeline.has_non_finished_requests():
                self._step()

    def _unfit(self, request: Request, prompt: Tokens) -> Failure | None:
        if request.max_tokens < 1:
            return Failure(error=f"max_tokens is {request.max_tokens}, not at least 1", retryable=False)
        if len(prompt) + request.max_tokens <= self._loaded.context:
            return None
        size = f"{len(prompt)} tokens and {request.max_tokens} for the reply"
        return Failure(error=f"{size} are more than the model's {self._loaded.context}", retryable=False)

    def _started(self, request: Request, prompt: Tokens) -> Untyped:
        import openvino as _openvino

        openvino: Untyped = _openvino
        self._asked += 1
        tensor = openvino.Tensor(np.array([prompt], np.int64))
        return self._loaded.pipeline.add_request(self._asked, tensor, self._settings(request, prompt))

    def _settings(self, request: Request, prompt: Tokens) -> Untyped:
        own = self._loaded.pipeline.get_config()
        settings = _genai().GenerationConfig()
        settings.max_new_tokens = request.max_tokens
        settings.eos_token_id, settings.stop_token_ids = own.eos_token_id, own.stop_token_ids
        settings.stop_strings = {stop for stop in request.stop if stop}
        settings.apply_chat_template = False
        if request.temperature > 0:
            settings.do_sample, settings.temperature = True, request.temperature
            settings.top_p, settings.top_k = request.top_p, _ALL
            words = f"{request.seed} {request.temperature} {request.top_p} {prompt}"
            settings.rng_seed = int.from_bytes(hashlib.blake2b(words.encode(), digest_size=4).digest(), "little")
        return settings

    def _step(self) -> None:
        try:
            self._loaded.pipeline.step()
        except RuntimeError as error:
            raise GeneratorError(
                f"openvino-genai stopped while it wrote with {self._path}: {first_line(error)}",
                remedy="Give the same command again: what was written is kept.",
            ) from error

    def _outcome(self, handle: Untyped, request: Request, prompt: Tokens) -> Outcome:
        genai = _genai()
        if handle.get_status() != genai.GenerationStatus.FINISHED:
            return Failure(error="the prompt is longer than the memory for keys and values holds", retryable=False)
        found = handle.read_all()
        if not found:  # its first token completed a stop string
            return Reply(text="", input_tokens=len(prompt), output_tokens=1, finish="stop")
        (written,) = found
        text = self._loaded.tokenizer.decode(list(written.generated_ids))
        places = [place for stop in request.stop if stop and (place := text.find(stop)) >= 0]
        cut = bool(places) or written.finish_reason == genai.GenerationFinishReason.STOP
        return Reply(
            text=text[: min(places, default=len(text))],
            input_tokens=len(prompt),
            output_tokens=len(written.generated_ids),
            finish="stop" if cut else "length",
        )

    def _encode(self, requests: Sequence[Request]) -> list[Tokens]:
        """The prompt of each request as tokens; equal conversations are encoded once."""
        loaded = self._loaded
        known: dict[object, Tokens] = {}
        for request in requests:
            if request.messages in known:
                continue
            turns = [{"role": one.role, "content": one.harmless(loaded.specials)} for one in request.messages]
            if turns[0]["role"] == "text":
                text = turns[0]["content"]
            else:
                text = loaded.tokenizer.apply_chat_template(turns, True)
            ids = loaded.tokenizer.encode(text, add_special_tokens=False).input_ids.data[0]
            known[request.messages] = tuple(ids.tolist())
        return [known[request.messages] for request in requests]

    @cached_property
    def _loaded(self) -> _Loaded:
        genai = _genai()
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size, scheduler.max_num_seqs, scheduler.max_num_batched_tokens = (
            _CACHE_GIB,
            _SIDE_BY_SIDE,
            _PASS,
        )
        scheduler.enable_prefix_caching = True
        file = self._path
        if file.is_file():
            header = read_gguf(file)
            context = int(header.value(f"{header.value('general.architecture')}.context_length"))
            file = without_offsets(header, self._content)
        else:
            context = _context(file)
        try:
            pipeline = genai.ContinuousBatchingPipeline(str(file), scheduler, "CPU", _compute())
            tokenizer = pipeline.get_tokenizer()
        except RuntimeError as error:
            raise ModelError(
                f"openvino-genai can't run {self._path}: {first_line(error)}",
                remedy=f"Convert the model, {_CONVERT}, and use --generator openvino:FOLDER; or run it behind llama.cpp"
                " or Ollama, and use --generator openai:http://localhost:PORT/v1#MODEL.",
            ) from error
        if not tokenizer.chat_template:
            raise ModelError(
                f"{self._path} has no chat template, so it can't follow a request.",
                remedy="Use an instruct or chat version of the model.",
            )
        return _Loaded(pipeline, tokenizer, _specials(tokenizer), context)


def _compute() -> dict[str, object]:
    """Settings of the CPU's plug-in.

    Products take activations as they are: of SmolLM2's likeliest replies 68% then equal those of exact arithmetic, and
    52% with activations rounded to eight bits, which took a sixth less of the processor's time.
    """
    return {"INFERENCE_NUM_THREADS": cores(), "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}


def _genai() -> Untyped:
    try:
        import openvino_genai
    except ImportError as error:
        raise MissingDependency("openvino-genai", extra="local", needed_for="Writing with this model") from error
    return openvino_genai


def is_folder(path: Path) -> bool:
    """Whether a folder holds a language model in OpenVINO's format."""
    return (path / "openvino_model.xml").is_file()


def _context(path: Path) -> int:
    """The most tokens of a prompt with its reply, by a folder's configuration."""
    try:
        config = json.loads((path / "config.json").read_text("utf-8"))
        return int(config.get("text_config", config).get("max_position_embeddings") or 1 << 20)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ModelError(f"{path} has no right config.json.", remedy="Make the folder again: " + _CONVERT) from error


def _specials(tokenizer: Untyped) -> tuple[str, ...]:
    """The texts of tokens that end a turn or begin another, the longest first: those that a decoder can leave out."""
    marks = [
        (number, name.decode("utf-8", "replace"))
        for name, number in tokenizer.get_vocab().items()
        if name[:1] in (b"<", b"[") and name[-1:] in (b">", b"]") and len(name) > 2
    ]
    if not marks:
        return ()
    left = tokenizer.decode([[number] for number, _ in marks])
    return tuple(sorted((name for (_, name), text in zip(marks, left, strict=True) if not text), key=len, reverse=True))


def _is_running(handle: Untyped) -> bool:
    return bool(handle.get_status() == _genai().GenerationStatus.RUNNING)


def _open(settings: GenerateConfig, outside: Outside) -> LanguageModel:
    _genai()  # a missing package is an error now, not after an hour
    return OpenVinoGenerator(resolve_generator(settings.llm))


GENERATOR = replace(LOCAL, name="openvino", open=_open)
