"""A setting: its kind, its limits, and whether it decides a result; a group of settings."""

from __future__ import annotations

from typing import Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic.config import JsonDict

#: The kinds of files that settings name: documents to read, a BEIR folder, one file, or a model (a folder or a name). A
#: spec such as recorded:FILE names a file; a spec such as bedrock:MODEL does not. Vectors are the name of an embedder,
#: or of two files behind npy:.
PathKind = Literal["documents", "beir", "file", "model", "spec", "vectors"]
#: The beginning of a spec that names a file.
RECORDED = "recorded:"
#: The beginning of a name of vectors in files: npy:PASSAGES.npy,QUESTIONS.npy.
ARRAYS = "npy:"


T = TypeVar("T")


def decides(
    default: T,
    *,
    path: PathKind | None = None,
    description: str | None = None,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
) -> T:
    """A setting that decides a result: changing it makes the stages that depend on it stale. Limits as pydantic's."""
    extra: JsonDict = {"decides": True, "path": path}
    made: T = Field(default, json_schema_extra=extra, description=description, ge=ge, gt=gt, le=le, lt=lt)
    return made


def incidental(default: T, *, description: str | None = None, ge: float | None = None) -> T:
    """A setting of how the work is done, such as its price limit. Changing it makes nothing stale."""
    made: T = Field(default, json_schema_extra={"decides": False}, description=description, ge=ge)
    return made


#: The largest number of any setting; the system's own limits of times and sizes lie above it.
_LARGEST = 1_000_000_000


class Section(BaseModel):
    """A group of settings: frozen, and an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth(cls, value: object, info: ValidationInfo) -> object:
        kinds = {int, float} & {of := cls.model_fields[str(info.field_name)].annotation, *get_args(of)}
        if isinstance(value, bool) and kinds:
            raise ValueError("a number is needed, not true or false")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _no_overflow(cls, value: object) -> object:
        if isinstance(value, int | float) and abs(value) > _LARGEST:
            raise ValueError(f"at most {_LARGEST:,} is possible")
        return value
