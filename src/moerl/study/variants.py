"""Network variants by name: those of `networks.yaml`, as wide as a study wants them, and its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from moerl.study.errors import ConfigError
from moerl.study.modules import module_source
from moerl.study.specs import HIDDEN_UNITS, NetworkSpec
from moerl.study.study_file import NAME, StudyFile, read_entries, validate


class Variants(Mapping[str, NetworkSpec]):
    """Network variants by name; the module's file of a custom one is looked at when the variant is taken.

    So a shared variant whose module is not on this machine harms no study that does without it. Taking
    one raises ConfigError if its module or its options are wrong.
    """

    def __init__(self, specs: Mapping[str, tuple[NetworkSpec, Path, str]]) -> None:
        """From each variant as it is written, its file, and where it stands there."""
        self._written = dict(specs)
        self._taken: dict[str, NetworkSpec] = {}

    def __getitem__(self, name: str) -> NetworkSpec:
        if name not in self._taken:
            self._taken[name] = _with_source(*self._written[name])
        return self._taken[name]

    def __contains__(self, name: object) -> bool:
        return name in self._written

    def __iter__(self) -> Iterator[str]:
        return iter(self._written)

    def __len__(self) -> int:
        return len(self._written)

    def with_more(self, specs: Mapping[str, tuple[NetworkSpec, Path, str]]) -> Variants:
        """These variants and more."""
        return Variants(self._written | dict(specs))

    def check(self, names: Iterable[str]) -> None:
        """Raises ConfigError if one of these is wrong."""
        for name in names:
            self.__getitem__(name)


def load_variants(shared: Path) -> dict[str, NetworkSpec]:
    """The variants of `networks.yaml`, by name, every one of them ready for use. Raises ConfigError."""
    return dict(_written_in(shared, _shared(shared)))


def study_variants(shared: Path, file: StudyFile, path: Path) -> Variants:
    """The variants of `networks.yaml` in the study's width, and the study's own.

    Raises ConfigError if a shared width is not a whole number then, or one of the study's own is wrong.
    """
    usual = _shared(shared)
    if file.hidden_units != HIDDEN_UNITS:
        usual = {name: _resized(name, spec, file.hidden_units, path) for name, spec in usual.items()}
    for name in file.variants:
        if not NAME.fullmatch(name):
            raise ConfigError(path, f"variants.{name}", "lower-case letters, digits, '-' and '_' only")
        if name in usual:
            raise ConfigError(path, f"variants.{name}", f"already defined in {shared}; choose another name")
    own = {name: (spec, path, f"variants.{name}") for name, spec in file.variants.items()}
    variants = _written_in(shared, usual).with_more(own)
    variants.check(own)
    return variants


def _shared(shared: Path) -> dict[str, NetworkSpec]:
    return {name: validate(NetworkSpec, one, shared, name) for name, one in read_entries(shared).items()}


def _written_in(shared: Path, specs: Mapping[str, NetworkSpec]) -> Variants:
    return Variants({name: (spec, shared, name) for name, spec in specs.items()})


def _resized(name: str, spec: NetworkSpec, hidden_units: int, path: Path) -> NetworkSpec:
    """A shared variant as wide as it is if 512 hidden units become `hidden_units`. Raises ConfigError."""
    width, rest = divmod(spec.hidden_units * hidden_units, HIDDEN_UNITS)
    if rest:
        part = f"{spec.hidden_units} / {HIDDEN_UNITS}"
        problem = f"bad value {hidden_units}: {name} has {part} of it, which is not a whole number"
        raise ConfigError(path, "hidden_units", problem)
    return spec.model_copy(update={"hidden_units": width})


def _with_source(spec: NetworkSpec, file: Path, where: str) -> NetworkSpec:
    """`spec` with its options checked and the digest of its module's source, if that is a custom one.

    The module is not imported: whether it works is seen where JAX is used anyway.
    """
    if not spec.custom:
        return spec
    if spec.source is not None:
        raise ConfigError(file, f"{where}.source", "is computed from the module's file; leave it out")
    try:
        found = module_source(spec.module)
    except ValueError as error:
        raise ConfigError(file, f"{where}.module", f"bad value {spec.module!r}: {error}") from error
    given = validate(found.options, dict(spec.options), file, f"{where}.options")
    options = tuple(sorted(given.model_dump(exclude_unset=True).items()))
    return spec.model_copy(update={"options": options, "source": found.digest})
