"""Which training an analysis is of: its files say so in their Parquet metadata, and another's are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moerl.study.errors import UserError
from moerl.study.expansion import Run, Study

_SPEC, _MILESTONE = b"moerl.spec_digest", b"moerl.milestone"


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
