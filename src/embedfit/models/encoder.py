"""The encoder: texts to vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import torch
import transformers
from safetensors import SafetensorError
from transformers.modeling_outputs import BaseModelOutput

from embedfit.errors import ModelError, first_line
from embedfit.models.architecture import Architecture, StaticEmbedding
from embedfit.models.folder import read_module
from embedfit.models.layout.families import Family
from embedfit.models.layout.files import shapes
from embedfit.models.layout.modules import pool
from embedfit.models.layout.prompts import open_model
from embedfit.models.layout.reading import read_architecture
from embedfit.models.text_model import TextModel, inner_layer
from embedfit.models.tokenizer import TextTokenizer, open_tokenizer
from embedfit.numerics.arrays import Halves, Vectors
from embedfit.numerics.batching import pad
from embedfit.numerics.machine import Precision, device, encoding_precision


def load_backbone(folder: Path, layout: Architecture | None = None) -> torch.nn.Module:
    """The bare transformer of a model folder with its weights in fp32, in evaluation mode.

    Raises ModelError for weights that do not fit config.json, or that hold NaN.
    """
    layout = layout or read_architecture(folder)
    where = folder / layout.first.path
    if isinstance(layout.first, StaticEmbedding):
        model: torch.nn.Module = StaticTable(read_module(where))
    else:
        model = _from_transformers(where, layout.family)
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise ModelError(f"{where}: the weight {name} holds NaN or infinity.", remedy="Fetch the model again.")
    return model.eval()


def _from_transformers(folder: Path, family: Family) -> torch.nn.Module:
    kind: Any = getattr(transformers, family.class_name or "AutoModel")
    more = {"add_pooling_layer": False} if family.has_pooler else {}
    quiet: Any = transformers.logging
    level = quiet.get_verbosity()
    quiet.set_verbosity_error()  # transformers' warnings: the checks below raise errors for those that matter
    quiet.disable_progress_bar()
    try:
        _check_sizes(folder, family, kind, more)
        model, info = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, use_safetensors=True,
            output_loading_info=True, **more,
        )  # fmt: skip
    except SafetensorError as error:
        raise ModelError(f"{folder}: the weights are damaged or cut off: {error}") from error
    except (
        RuntimeError,
        ValueError,
        OSError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
        MemoryError,
    ) as error:
        raise ModelError(f"The weights in {folder} do not fit its config.json: {first_line(error)}") from error
    finally:
        quiet.set_verbosity(level)
        quiet.enable_progress_bar()
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ModelError(
            f"{folder}/model.safetensors lacks {len(missing)} weights of a {family.name}, such as {missing[0]}.",
            remedy="The folder holds weights of another architecture than its config.json says.",
        )
    model.config.return_dict = True  # a folder may have stored another form of outputs
    model.config.output_hidden_states = False
    result: torch.nn.Module = model
    return result


def _check_sizes(folder: Path, family: Family, kind: Any, more: Mapping[str, bool]) -> None:  # noqa: ANN401
    """Raise ModelError before memory is taken for sizes that the weights do not have."""
    config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = kind(config) if family.class_name else kind.from_config(config, **more)
    stored = {name.removeprefix(f"{family.prefix}."): shape for name, shape in shapes(folder).items()}
    for name, weight in model.state_dict().items():
        if tuple(weight.shape) != stored.get(name, tuple(weight.shape)):
            found, wants = stored[name], tuple(weight.shape)
            raise ModelError(f"The weights in {folder} do not fit its config.json: {name} is {found}, not {wants}.")
    wanted = sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith("pooler."))
    if wanted > 2 * sum(math.prod(shape) for shape in stored.values()) + 100_000:
        raise ModelError(
            f"{folder}/config.json describes {wanted:,} weights, many more than its files hold.",
            remedy="The folder holds weights of another architecture than its config.json says.",
        )


class StaticTable(torch.nn.Module):
    """A static embedding with the interface of a transformer: its states are the rows of its table."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        table = next(tensors[name] for name in ("embedding.weight", "embeddings") if name in tensors)
        rows, width = table.shape
        self.embedding = torch.nn.Embedding(rows, width, _weight=table.float())
        self.config = SimpleNamespace(model_type="static", hidden_size=table.shape[1], pad_token_id=0)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: object) -> BaseModelOutput:
        """The tokens' rows: (B, L, H)."""
        states = self.embedding(input_ids)
        return BaseModelOutput(last_hidden_state=states, hidden_states=(states, states))


class States(NamedTuple):
    """The output of a transformer for B texts.

    last: (B, L, H) of the last layer. mask: (B, L), 1 for tokens. layers: the states of the embeddings and of every
    layer if they were asked for, else of the last layer alone.
    """

    last: torch.Tensor
    mask: torch.Tensor
    layers: tuple[torch.Tensor, ...]

    def side_by_side(self) -> torch.Tensor:
        """Unit vectors of tokens for late interaction, (B, L, 2H) in fp16: of an inner layer and of the last one."""
        inner = self.layers[inner_layer(len(self.layers))]
        both = [torch.nn.functional.normalize(layer.float(), dim=-1) for layer in (inner, self.layers[-1])]
        return (torch.cat(both, -1) / 2**0.5).to(torch.float16)


class Encoder(TextModel):
    """A model folder, loaded, which torch runs.

    In a model of two towers this is the tower of passages, and the one of queries beside it encodes what is a query.
    """

    def __init__(
        self,
        folder: Path,
        *,
        layout: Architecture,
        tokenizer: TextTokenizer,
        backbone: torch.nn.Module,
        precision: Precision,
        towers: tuple[Encoder, Encoder] | None = None,
    ) -> None:
        """towers: those of passages and of queries, in a model of two."""
        super().__init__(folder, layout=layout, tokenizer=tokenizer)
        self.backbone = backbone
        self.precision = precision
        self._towers = towers

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        precision: Precision | Literal["auto"] = "auto",
        query_instruction: str | None = None,
        layout: Architecture | None = None,
        beside: Encoder | None = None,
    ) -> Encoder:
        """Read a folder. query_instruction: replaces the folder's. layout: the folder's, if it was read before.

        beside: the model's other tower, whose transformer and tokenizer are used if this one has the same. Raises
        ModelError for an incomplete folder.
        """
        layout = (layout or read_architecture(folder)).with_prompts(query=query_instruction)
        chosen: Precision = encoding_precision() if precision == "auto" else precision
        if layout.queries is not None:
            passages = cls.load(folder, precision=chosen, layout=layout.tower(is_query=False))
            queries = cls.load(folder, precision=chosen, layout=layout.queries, beside=passages)
            return cls.of_towers(passages, queries, layout=layout)
        if beside is not None and beside.folder == folder and beside.layout.first == layout.first:
            tokenizer, backbone = beside.text_tokenizer, beside.backbone
        else:
            tokenizer = open_tokenizer(folder, layout)
            backbone = load_backbone(folder, layout).to(device())
        return cls(folder, layout=layout, tokenizer=tokenizer, backbone=backbone, precision=chosen)

    @classmethod
    def of_towers(cls, passages: Encoder, queries: Encoder, *, layout: Architecture) -> Encoder:
        """The model of two loaded towers. layout: that of the whole model."""
        return cls(
            passages.folder,
            layout=layout,
            tokenizer=passages.text_tokenizer,
            backbone=passages.backbone,
            precision=passages.precision,
            towers=(passages, queries),
        )

    def tower(self, *, is_query: bool) -> Encoder:
        """The tower that encodes queries or passages: the encoder itself if the model has one tower."""
        return self if self._towers is None else self._towers[is_query]

    @torch.inference_mode()
    def forward(self, rows: list[list[int]], skip: int) -> Vectors:
        """As in TextModel."""
        filled = [index for index, row in enumerate(rows) if row]
        if len(filled) == len(rows):
            return self.pooled(self.run(rows), skip)
        found = torch.zeros(len(rows), self.layout.hidden_size * len(self.layout.pooling.modes))
        if filled:
            states = self.run([rows[index] for index in filled])
            some = pool(states.last.float(), states.mask, self.layout.pooling, _skips(skip, states.mask))
            found = found.to(some.device).index_copy(0, torch.tensor(filled, device=some.device), some)
        result: Vectors = self.head.finish(found).cpu().numpy()
        return result

    @torch.inference_mode()
    def states_of(self, rows: list[Sequence[int]], skip: int | None) -> tuple[Vectors | None, list[Halves]]:
        """As in TextModel."""
        states = self.run(rows, all_layers=True)
        tokens = zip(states.side_by_side().cpu().numpy(), rows, strict=True)
        return None if skip is None else self.pooled(states, skip), [vectors[: len(row)] for vectors, row in tokens]

    def pooled(self, states: States, skip: int) -> Vectors:
        """The vectors (B, D) of texts, each of at least one token."""
        found = self.head.vectors(states.last.float(), states.mask, _skips(skip, states.mask))
        result: Vectors = found.cpu().numpy()
        return result

    def run(self, rows: Sequence[Sequence[int]], *, all_layers: bool = False) -> States:
        """Put token ids, padded to the longest row, through the transformer."""
        where = next(self.backbone.parameters()).device
        ids, mask = (torch.from_numpy(part).to(where) for part in pad(rows, self.pad_id))
        more = {"output_hidden_states": True} if all_layers else {}
        with autocast(self.precision, where):
            output: BaseModelOutput = self.backbone(input_ids=ids, attention_mask=mask, **more)
        assert output.last_hidden_state is not None  # for the type checker
        return States(output.last_hidden_state, mask, output.hidden_states or (output.last_hidden_state,))

    @property
    def pad_id(self) -> int:
        """The token id that fills short rows."""
        value: object = getattr(self.backbone.config, "pad_token_id", None)
        return value if isinstance(value, int) and value >= 0 else 0


def _skips(skip: int, mask: torch.Tensor) -> torch.Tensor | None:
    return torch.full((len(mask),), skip, device=mask.device) if skip else None


def load_base(
    name: str, query_instruction: str | None = None, *, precision: Precision | Literal["auto"] = "auto"
) -> Encoder:
    """A model by name, with its right prompts. query_instruction: replaces the right one."""
    folder, layout = open_model(name, query_instruction)
    return Encoder.load(folder, precision=precision, layout=layout)


def autocast(precision: Precision, where: torch.device) -> AbstractContextManager[object]:
    """The context in which a forward pass runs in that precision; weights stay in fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(where.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)
