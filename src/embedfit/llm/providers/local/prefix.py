"""Plans which tokens are computed once for many prompts. Pure functions on tuples of token ids.

A prompt is root + trunk + leaf: the root (system prompt and examples) is shared by a whole group, the
trunk (a passage) by a family of prompts, and the leaf (the wish for a style) belongs to one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Tokens = tuple[int, ...]

#: A root of its own is worth a separate pass from this many prompts on.
_MIN_GROUP = 16
#: Prompts are of one family if the shared part is at least this share of the longer remainder.
_FAMILY_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Leaf:
    """The end of one prompt behind its family's trunk (possibly empty) and the requests that sample from it."""

    tokens: Tokens
    requests: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """Prompts that share a passage."""

    trunk: Tokens
    leaves: tuple[Leaf, ...]

    @property
    def length(self) -> int:
        """Tokens to compute: the trunk once and every leaf."""
        return len(self.trunk) + sum(len(leaf.tokens) for leaf in self.leaves)

    @property
    def samples(self) -> int:
        """Replies to write."""
        return sum(len(leaf.requests) for leaf in self.leaves)


@dataclass(frozen=True, slots=True)
class Wave:
    """Families that are computed together behind one root."""

    root: Tokens
    families: tuple[Family, ...]


def shared(a: Tokens, b: Tokens) -> int:
    """Length of the common prefix."""
    limit = min(len(a), len(b))
    if a[:limit] == b[:limit]:
        return limit
    low, high = 0, limit
    while high - low > 1:
        middle = (low + high) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle
    return low


def plan(prompts: Sequence[Tokens], *, token_budget: int, reply_tokens: int, max_samples: int) -> list[Wave]:
    """Waves that cover every prompt once; requests are named by their index in prompts.

    token_budget: key/value positions a wave may hold, padding and replies included.
    reply_tokens: positions to reserve for every reply. max_samples: replies written side by side.
    """
    requests: dict[Tokens, list[int]] = {}
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError("a prompt has no tokens")
        requests.setdefault(prompt, []).append(index)
    waves: list[Wave] = []
    for root, members in _groups(sorted(requests)):
        families = _families(root, members, requests, max_samples)
        # Longest first: the first wave then shows whether memory suffices, and neighbours need little padding.
        families.sort(key=lambda family: (-family.length, family.trunk))
        waves.extend(_waves(members[0][:root], families, token_budget, reply_tokens, max_samples))
    return waves


def _groups(ordered: list[Tokens]) -> list[tuple[int, list[Tokens]]]:
    """(length of the root, prompts) of each group, from sorted distinct prompts."""
    # A root must leave every prompt a token of its own, whose output starts the reply.
    root = min(shared(ordered[0], ordered[-1]), min(map(len, ordered)) - 1)
    groups: list[tuple[int, list[Tokens]]] = []
    rest: list[Tokens] = []
    start = 0
    while start < len(ordered):
        end = start + 1
        while end < len(ordered) and ordered[end][: root + 1] == ordered[start][: root + 1]:
            end += 1
        branch = ordered[start:end]
        if len(branch) < len(ordered) and _deserves_root(branch, root):
            groups.extend(_groups(branch))
        else:
            rest.extend(branch)
        start = end
    if rest:
        groups.append((root, rest))
    return groups


def _deserves_root(branch: list[Tokens], root: int) -> bool:
    """Whether computing the branch's whole prefix once costs less than its part behind the root for each prompt."""
    longer = shared(branch[0], branch[-1])
    return len(branch) >= _MIN_GROUP and (longer - root) * (len(branch) - 1) > longer


def _families(root: int, members: list[Tokens], requests: dict[Tokens, list[int]], max_samples: int) -> list[Family]:
    families: list[Family] = []
    kin: list[Tokens] = []
    trunk = 0
    for prompt in members:
        common = min(trunk, shared(kin[0], prompt)) if kin else 0
        close = bool(kin) and common - root >= _FAMILY_SHARE * (max(len(kin[0]), len(prompt)) - root)
        if close and sum(len(requests[p]) for p in kin) + len(requests[prompt]) <= max_samples:
            kin.append(prompt)
            trunk = common
            continue
        families.extend(_split_samples(root, trunk, kin, requests, max_samples))
        kin, trunk = [prompt], len(prompt)
    families.extend(_split_samples(root, trunk, kin, requests, max_samples))
    return families


def _split_samples(
    root: int, trunk: int, kin: list[Tokens], requests: dict[Tokens, list[int]], max_samples: int
) -> list[Family]:
    """One family; or several, where a single prompt is asked for more samples than run side by side."""
    if not kin:
        return []
    if len(kin) == 1:
        wanted = requests[kin[0]]
        return [
            Family(kin[0][root:], (Leaf((), tuple(wanted[start : start + max_samples])),))
            for start in range(0, len(wanted), max_samples)
        ]
    leaves = tuple(Leaf(prompt[trunk:], tuple(requests[prompt])) for prompt in kin)
    return [Family(kin[0][root:trunk], leaves)]


def _waves(root: Tokens, families: list[Family], token_budget: int, reply_tokens: int, max_samples: int) -> list[Wave]:
    waves: list[Wave] = []
    current: list[Family] = []
    longest = samples = 0
    for family in families:
        padded = max(longest, family.length) * (len(current) + 1)
        replies = samples + family.samples
        if current and (padded + replies * reply_tokens > token_budget or replies > max_samples):
            waves.append(Wave(root, tuple(current)))
            current, longest, samples = [], 0, 0
        current.append(family)
        longest, samples = max(longest, family.length), samples + family.samples
    if current:
        waves.append(Wave(root, tuple(current)))
    return waves
