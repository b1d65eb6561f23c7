"""A Llama that reads shared text once: the root, then families of prompts, then all their replies side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from embedfit.llm.providers.local.attention import attend, join
from embedfit.llm.providers.local.layers import (
    FloatHead,
    FloatLayer,
    Head,
    Int8Head,
    Int8Layer,
    Layer,
    LlamaShape,
    Weights,
)
from embedfit.llm.providers.local.prefix import Family, Leaf, Tokens, Wave
from embedfit.llm.providers.local.smooth import RecordingLayer, smoothed

#: Rows of a prefill pass: enough for full speed of the products, few enough to stay in the cache.
_CHUNK_ROWS = 320


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How products are computed. products: "int8", or a float dtype's name as in torch."""

    products: str
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of keys, values and attention."""
        return torch.float32 if self.products == "int8" else _DTYPES[self.products]


_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Root:
    """Keys and values of a shared beginning: (layers, 2, kv_heads, positions, head_width)."""

    tokens: Tokens
    cache: torch.Tensor


class Llama:
    """The model in one arithmetic. calibration: a text by which int8 products are made more exact."""

    def __init__(
        self, shape: LlamaShape, weights: Weights, arithmetic: Arithmetic, *, calibration: Tokens = ()
    ) -> None:
        self.shape = shape
        self.arithmetic = arithmetic
        device, dtype = arithmetic.device, arithmetic.dtype
        self._embedding = weights["model.embed_tokens.weight"].to(device)
        steps = torch.arange(0, shape.head_width, 2, dtype=torch.float32) / shape.head_width
        angles = torch.outer(torch.arange(shape.context, dtype=torch.float32), 1.0 / shape.rope_base**steps)
        self._spares: list[torch.Tensor] = []
        self._rotation = torch.polar(torch.ones_like(angles), angles).to(device)
        self._layers: list[Layer]
        self._head: Head
        if arithmetic.products == "int8":
            if calibration:
                recording = [RecordingLayer(weights, index, shape) for index in range(shape.layers)]
                self._layers = list(recording)
                self.read(None, [Family(calibration, (Leaf((), ()),))], self.new_cache(1, len(calibration)))
                weights = smoothed(weights, shape, recording)
            self._layers = [Int8Layer(weights, index, shape) for index in range(shape.layers)]
            self._head = Int8Head(weights, shape)
        else:
            self._layers = [FloatLayer(weights, index, shape, dtype, device) for index in range(shape.layers)]
            self._head = FloatHead(weights, shape, dtype, device)

    @property
    def position_bytes(self) -> int:
        """Bytes of the keys and values of one token."""
        shape = self.shape
        return 2 * shape.layers * shape.kv_heads * shape.head_width * self.arithmetic.dtype.itemsize

    @torch.inference_mode()
    def read_root(self, tokens: Tokens) -> Root:
        """Keys and values of a beginning, to be shared by waves."""
        cache = self.new_cache(1, len(tokens))
        if tokens:
            self.read(None, [Family(tokens, ())], cache)
        return Root(tokens, cache[:, :, 0])

    def new_cache(self, rows: int, positions: int) -> torch.Tensor:
        """Room for keys and values: (layers, 2, rows, kv_heads, positions, head_width)."""
        size = self._cache_size(rows, positions)
        return torch.empty(size, dtype=self.arithmetic.dtype, device=self.arithmetic.device)

    def _borrow_cache(self, rows: int, positions: int) -> torch.Tensor:
        """A cache in the memory that a finished wave gave back, if that suffices; else a new one."""
        size = self._cache_size(rows, positions)
        count = math.prod(size)
        for index, spare in enumerate(self._spares):
            if len(spare) >= count:
                return self._spares.pop(index)[:count].view(size)
        return self.new_cache(rows, positions)

    @torch.inference_mode()
    def give_back(self, replies: Replies) -> None:
        """Keep a finished wave's memory: the kernel would hand out fresh memory page by page, zeroed."""
        for cache in (replies.families, replies.own):
            self._spares.append(cache.new_empty(0).set_(cache.untyped_storage()))
        self._spares = sorted(self._spares, key=len)[-2:]

    def _cache_size(self, rows: int, positions: int) -> tuple[int, ...]:
        shape = self.shape
        return shape.layers, 2, rows, shape.kv_heads, positions, shape.head_width

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(rows, width) → (rows, vocabulary) float32."""
        return self._head.logits(hidden)

    @torch.inference_mode()
    def read(self, root: Root | None, families: Sequence[Family], cache: torch.Tensor) -> torch.Tensor:
        """Fill the cache's rows with families; returns the hidden state of each leaf's last token.

        cache: (layers, 2, len(families), kv_heads, positions, head_width). Result: (leaves, width).
        """
        shape, device = self.shape, self.arithmetic.device
        chunk = _Chunk.of(families, len(root.tokens) if root is not None else 0)
        count, length = chunk.tokens.shape
        rotation = self._rotation[chunk.positions.to(device).flatten()][:, None]
        hidden = F.embedding(chunk.tokens.to(device).flatten(), self._embedding)
        mask = _folded(chunk.mask, shape.group).to(device=device, dtype=self.arithmetic.dtype)
        ends = chunk.ends.to(device)
        for index, layer in enumerate(self._layers):
            query, key, value = self._rotated(layer.qkv(hidden), rotation)
            layer_cache = cache[index, :, :count, :, :length]
            layer_cache[0] = key.view(count, length, *key.shape[1:]).transpose(1, 2)
            layer_cache[1] = value.view(count, length, *value.shape[1:]).transpose(1, 2)
            if index == shape.layers - 1 and not len(ends):
                break
            # (count, kv_heads, length * group, head_width): the query heads of a key head stand below each other.
            folded = query.view(count, length, shape.kv_heads, shape.group, -1).transpose(1, 2).flatten(2, 3)
            part = attend(folded, layer_cache[0], layer_cache[1], mask)
            if root is not None and root.tokens:
                shared = root.cache[index][:, None].expand(2, count, *root.cache.shape[2:])
                part = join(part, attend(folded, shared[0], shared[1]))
            mixed = part[0].view(count, shape.kv_heads, length, -1).transpose(1, 2).reshape(count * length, -1)
            if index == shape.layers - 1:
                # Behind the last attention only the tokens matter whose output starts a reply.
                hidden, mixed = hidden[ends], mixed[ends]
            layer.add_attention(hidden, mixed)
            layer.add_feed_forward(hidden)
        return hidden if len(ends) else hidden[:0]

    def _rotated(self, qkv: torch.Tensor, rotation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(rows, all heads * width) → queries, keys, values as (rows, heads, head_width), positions applied."""
        shape = self.shape
        states = qkv.view(len(qkv), -1, shape.head_width)
        turning = shape.heads + shape.kv_heads
        pairs = torch.view_as_complex(states[:, :turning].float().reshape(len(qkv), turning, -1, 2))
        turned = torch.view_as_real(pairs * rotation).flatten(2).to(qkv.dtype)
        return turned[:, : shape.heads], turned[:, shape.heads :], states[:, turning:]

    @torch.inference_mode()
    def write(self, replies: Replies, tokens: torch.Tensor) -> torch.Tensor:
        """One more token of every reply: (rows,) → the hidden states (rows, width)."""
        shape = self.shape
        step, rows = replies.step, len(tokens)
        rotation = self._rotation[replies.starts + step][:, None]
        hidden = F.embedding(tokens, self._embedding)
        for index, layer in enumerate(self._layers):
            query, key, value = self._rotated(layer.qkv(hidden), rotation)
            own = replies.own[index, :, :rows]
            own[0, :, :, step] = key
            own[1, :, :, step] = value
            grouped = query.view(rows, shape.kv_heads, shape.group, -1)
            part = attend(grouped, own[0, :, :, : step + 1], own[1, :, :, : step + 1])
            part = join(part, self._attend_family(grouped, replies, index))
            if replies.root.tokens:
                everyone = grouped.transpose(0, 1).flatten(1, 2)[None]
                shared = replies.root.cache[index][:, None]
                mixed, normaliser = attend(everyone, shared[0], shared[1])
                part = join(
                    part,
                    (
                        mixed.view(shape.kv_heads, rows, shape.group, -1).transpose(0, 1),
                        normaliser.view(shape.kv_heads, rows, shape.group).transpose(0, 1),
                    ),
                )
            layer.add_attention(hidden, part[0].reshape(rows, -1))
            layer.add_feed_forward(hidden)
        replies.step += 1
        return hidden

    def _attend_family(self, grouped: torch.Tensor, replies: Replies, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Each reply over its family's text, whose keys are read once for all replies of the family."""
        shape = self.shape
        count, width = replies.grid
        slots = grouped.new_zeros(count * width, *grouped.shape[1:])
        slots[replies.slots] = grouped
        folded = slots.view(count, width, shape.kv_heads, shape.group, -1).transpose(1, 2).flatten(2, 3)
        cache = replies.families[index, :, :count]
        mixed, normaliser = attend(folded, cache[0], cache[1], replies.mask)
        mixed = mixed.view(count, shape.kv_heads, width, shape.group, -1).transpose(1, 2).flatten(0, 1)
        normaliser = normaliser.view(count, shape.kv_heads, width, shape.group).transpose(1, 2).flatten(0, 1)
        return mixed[replies.slots], normaliser[replies.slots]

    @torch.inference_mode()
    def start(self, root: Root, wave: Wave, reply_tokens: int) -> tuple[Replies, torch.Tensor]:
        """Read a wave's families; returns its replies, still empty, and the hidden state that starts each.

        Replies are ordered by family, leaf and request. reply_tokens: room for each reply.
        """
        families = wave.families
        longest = max(family.length for family in families)
        cache = self._borrow_cache(len(families), longest)
        ends = []
        for part in _chunks(families):
            length = max(family.length for family in families[part])
            # Zeros, because masked numbers must be finite too: zero times NaN is NaN.
            cache[:, :, part, :, length:] = 0
            ends.append(self.read(root, families[part], cache[:, :, part]))
        replies = Replies.of(self, root, families, cache, reply_tokens)
        return replies, torch.cat(ends)[replies.leaf_of_row]


class Replies:
    """The replies of a wave while they are written.

    A row is a reply. Rows lie in a grid of families x places, so that a family's keys serve all its
    replies in one product.
    """

    def __init__(
        self,
        root: Root,
        families: torch.Tensor,
        own: torch.Tensor,
        visible: torch.Tensor,
        place: tuple[torch.Tensor, torch.Tensor],
        starts: torch.Tensor,
        leaf_of_row: torch.Tensor,
        group: int,
    ) -> None:
        self.root, self.families, self.own = root, families, own
        self.starts, self.leaf_of_row = starts, leaf_of_row
        self.step = 0
        self._visible = visible  # (rows, positions) of the family that a reply sees
        self._family, self._column = place
        self._group = group
        self._arrange()

    @classmethod
    def of(
        cls, model: Llama, root: Root, families: Sequence[Family], cache: torch.Tensor, reply_tokens: int
    ) -> Replies:
        """Empty replies of families whose text is in the cache."""
        longest = cache.shape[4]
        visible, family_of, column, starts, leaf_of_row = [], [], [], [], []
        leaves = 0
        for index, family in enumerate(families):
            offset, place = len(family.trunk), 0
            for leaf in family.leaves:
                seen = torch.zeros(longest, dtype=torch.bool)
                seen[: len(family.trunk)] = True
                seen[offset : offset + len(leaf.tokens)] = True
                for _ in leaf.requests:
                    visible.append(seen)
                    family_of.append(index)
                    column.append(place)
                    starts.append(len(root.tokens) + len(family.trunk) + len(leaf.tokens))
                    leaf_of_row.append(leaves)
                    place += 1
                offset += len(leaf.tokens)
                leaves += 1
        device = model.arithmetic.device
        return cls(
            root,
            cache,
            model._borrow_cache(len(visible), reply_tokens),
            torch.stack(visible).to(device),
            (torch.tensor(family_of, device=device), torch.tensor(column, device=device)),
            torch.tensor(starts, device=device),
            torch.tensor(leaf_of_row, device=device),
            model.shape.group,
        )

    @property
    def rows(self) -> int:
        """Replies still being written."""
        return len(self.starts)

    def _arrange(self) -> None:
        count, width = int(self._family.max()) + 1, int(self._column.max()) + 1
        self.grid = (count, width)
        self.slots = self._family * width + self._column
        # A place without a reply sees all keys: its result is not used, but must be finite.
        visible = torch.ones(count * width, self._visible.shape[1], dtype=torch.bool, device=self._visible.device)
        visible[self.slots] = self._visible
        mask = torch.zeros(visible.shape, dtype=self.families.dtype, device=visible.device)
        mask.masked_fill_(~visible, float("-inf"))
        self.mask = _folded(mask.view(count, width, -1), self._group)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Keep these rows; the others are finished."""
        kept = torch.tensor(rows, device=self.starts.device)
        for layer in self.own:
            # Advanced indexing copies before it is written back, so that rows may move up in place.
            layer[:, : len(kept), :, : self.step] = layer[:, kept, :, : self.step]
        self._visible, self.starts, self._column = self._visible[kept], self.starts[kept], self._column[kept]
        family = self._family[kept]
        used, compact = torch.unique(family, return_inverse=True)
        if len(used) <= self.grid[0] // 2:
            # Moving a family's keys costs about as much as reading them once, so it is done seldom.
            for layer in self.families:
                layer[:, : len(used)] = layer[:, used]
            family = compact
        self._family = family
        self._arrange()


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Families side by side, padded at the right.

    tokens, positions: (families, length). mask: (families, length, length), 0 or -inf. ends: rows of the
    flattened tokens that end a leaf.
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    ends: torch.Tensor

    @classmethod
    def of(cls, families: Sequence[Family], offset: int) -> _Chunk:
        length = max(family.length for family in families)
        tokens = torch.zeros(len(families), length, dtype=torch.int64)
        positions = torch.zeros(len(families), length, dtype=torch.int64)
        hidden = torch.ones(length, length, dtype=torch.bool).triu_(1).repeat(len(families), 1, 1)
        ends: list[int] = []
        for row, family in enumerate(families):
            trunk = len(family.trunk)
            tokens[row, :trunk] = torch.tensor(family.trunk, dtype=torch.int64)
            positions[row, :trunk] = torch.arange(offset, offset + trunk)
            start = trunk
            for leaf in family.leaves:
                stop = start + len(leaf.tokens)
                tokens[row, start:stop] = torch.tensor(leaf.tokens, dtype=torch.int64)
                positions[row, start:stop] = torch.arange(offset + trunk, offset + trunk + len(leaf.tokens))
                hidden[row, start:stop, trunk:start] = True  # a leaf does not see the leaves before it
                ends.append(row * length + (stop if stop > start else trunk) - 1)
                start = stop
        mask = torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))
        return cls(tokens, positions, mask, torch.tensor(ends, dtype=torch.int64))


def _folded(mask: torch.Tensor, group: int) -> torch.Tensor:
    """(n, rows, positions) → (n, 1, rows * group, positions), as the folded queries need it."""
    return mask.repeat_interleave(group, dim=1)[:, None]


def _chunks(families: Sequence[Family]) -> list[slice]:
    """Runs of families whose padded tokens fill a pass."""
    chunks: list[slice] = []
    start = longest = 0
    for index, family in enumerate(families):
        longest = max(longest, family.length)
        if index > start and longest * (index - start + 1) > _CHUNK_ROWS:
            chunks.append(slice(start, index))
            start, longest = index, family.length
    chunks.append(slice(start, len(families)))
    return chunks
