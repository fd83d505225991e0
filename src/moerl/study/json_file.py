"""Reading JSON that somebody else may have written, or half of it: checked against a type, never trusted."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, StrictBool, TypeAdapter, ValidationError

from moerl.study.errors import one_line

_Kind = TypeVar("_Kind")


def parse_json(kind: type[_Kind], data: bytes | str) -> _Kind:
    """JSON text as a value of type `kind` (a pydantic model, a dataclass, `dict[str, int]`, …).

    Raises ValueError, in one line, for whatever is wrong with it: syntax, encoding, nesting, types.
    """
    adapter: TypeAdapter[_Kind] = _adapter(kind)  # type: ignore[arg-type] # types are hashable
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        raise ValueError(one_line(error)) from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


class RunManifest(BaseModel):
    """What is read again of the `manifest.json` of a finished run."""

    model_config = ConfigDict(frozen=True)

    spec_digest: str
    """Of the spec that it was trained under."""
    spec: dict[str, Any] | None = None
    seed: int | None = None
    sha256: dict[str, str] | None = None
    """File → checksum, of those that are the same in every repeat."""
    archived: StrictBool = False
    """Whether the run came from an archive of results (`moerl import`)."""
