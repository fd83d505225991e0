"""Which training analyses and scores are of: their Parquet metadata say so, and any other is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from moerl.study.errors import UserError
from moerl.study.expansion import Cell, Run, Study

_SPEC, _MILESTONE = b"moerl.spec_digest", b"moerl.milestone"
_ORIGINS = b"moerl.origins"


@dataclass(frozen=True)
class Origin:
    """The training whose snapshots were analysed."""

    spec_digest: str
    milestone: str
    """How far it went, as a label such as "50M"."""

    @classmethod
    def of(cls, study: Study, run: Run) -> Origin:
        """The training that a run of the study is now."""
        return cls(study.train_spec(run.cell).digest(), run.milestone)

    def metadata(self) -> dict[bytes, bytes]:
        """What a file of this training has in its schema's metadata."""
        return {_SPEC: self.spec_digest.encode(), _MILESTONE: self.milestone.encode()}

    def check(self, where: str, metadata: Mapping[bytes, bytes] | None) -> None:
        """Refuse a file of other training.

        Args:
            where: How to call the file in errors.
            metadata: Of its schema; None: it has none.

        Raises:
            UserError: It is of another spec or milestone, or does not say of which.
        """
        there = metadata or {}
        for key, what, wanted in (
            (_SPEC, "spec", self.spec_digest),
            (_MILESTONE, "milestone", self.milestone),
        ):
            found = there.get(key, b"").decode(errors="replace")
            if not found:
                raise UserError(f"{where}: does not say which training it is of; analyse this run again")
            if found != wanted:
                raise UserError(
                    f"{where}: is of other training (its {what} is {found}, the study's {wanted}); "
                    "analyse this run again"
                )


def origins_metadata(origins: Mapping[Cell, Origin]) -> dict[bytes, bytes]:
    """What a file of the runs of many cells has in its schema's metadata."""
    told = {_name(cell): [origin.spec_digest, origin.milestone] for cell, origin in origins.items()}
    return {_ORIGINS: json.dumps(told, sort_keys=True).encode()}


def check_origins(
    where: str, metadata: Mapping[bytes, bytes] | None, wanted: Mapping[Cell, Origin], again: str
) -> None:
    """Refuse a file of many cells if the training of one of them is not that of now.

    Args:
        where: How to call the file in errors.
        metadata: Of its schema, as from `origins_metadata`; None: it has none.
        wanted: The training that each cell is now. A cell that the file does not have is nobody's training.
        again: What the user should do, in words.

    Raises:
        UserError: A cell is of another spec or milestone, or the file does not say of which.
    """
    try:
        found = json.loads((metadata or {})[_ORIGINS])
        there = {str(name): Origin(*map(str, origin)) for name, origin in found.items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: does not say which training it is of; {again}") from error
    for cell, origin in wanted.items():
        known = there.get(_name(cell), origin)
        if known != origin:
            raise UserError(
                f"{where}: its {_name(cell)} is of other training (spec {known.spec_digest} to "
                f"{known.milestone}, the study's {origin.spec_digest} to {origin.milestone}); {again}"
            )


def _name(cell: Cell) -> str:
    return f"{cell.agent} {cell.variant} {cell.game}"
