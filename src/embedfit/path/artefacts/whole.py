"""What all files of one JSON value share."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

#: The low and the high end of an interval.
Interval: TypeAlias = tuple[float, float]
#: The model that ships: the merge, the fine-tuned model alone, or the base if neither is better.
Ship = Literal["merged", "finetuned", "base"]
#: The model that a retriever ships over: the result of the merge, or the base.
ShippedModel = Literal["merged", "base"]
#: The metric that decides what ships.
METRIC = "ndcg@10"
Schema: TypeAlias = Annotated[int, Field(alias="schema")]


class Whole(BaseModel):
    """A file of one JSON value, or a part of one. A field that an older embedfit did not write has a default."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)
