"""Text of documents as data in a prompt, without tags that would end it early or begin another speaker's turn."""

from __future__ import annotations

import re

#: The tags that our prompts put around data, and the signs of chat templates between speakers, thoughts and tools:
#: some servers read such signs in a document as if the template had written them.
_STEERING = re.compile(
    r"(?:<|&lt;|＜)\s{0,4}[/\\]?\s{0,4}(?:passage|queries)\b[^<>＞]{0,80}?(?:>|&gt;|＞)"
    r"|<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|<(?:start|end)_of_turn>|</?s>|\[/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS)\]"
    r"|<</?SYS>>|</?(?:think|tool_call|tool_response)>",
    re.IGNORECASE,
)


def as_data(text: str) -> str:
    """A text without such tags and signs, also where taking one out would have made another."""
    for _ in range(2):
        text = _STEERING.sub(" ", text)
    return text.replace("<", " ").replace("＜", " ") if _STEERING.search(text) else text
