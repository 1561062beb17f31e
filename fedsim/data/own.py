"""One party's own file: a client's examples, or the server's test set if clients bring their own data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedsim.catalogue import Kind, Targets
from fedsim.data.arrays import array_of, as_targets, one_for_each, opened_npz, values_in
from fedsim.data.federated import ClientData, Examples
from fedsim.data.inputs import channels_last, check_inputs, converted, divisor_of
from fedsim.data.spec import DataSpec
from fedsim.data.tokens import windows
from fedsim.errors import Refused
from fedsim.options import InputOptions

if TYPE_CHECKING:
    import polars as pl

LABEL = "label"
UNSET = InputOptions()
SUFFIXES = (".npz", ".parquet", ".txt")


@dataclass(frozen=True)
class OwnFile:
    """Contents of a file, before its task is known: text, or inputs as they came and targets as in `Raw`."""

    where: str  # names the file in errors
    x: NDArray[Any] | None = None
    y: NDArray[Any] | None = None
    text: str = ""

    @property
    def kind(self) -> Kind:
        """What one input is."""
        if self.x is None:
            return Kind.TEXT
        return Kind.FEATURES if self.x.ndim == 2 else Kind.IMAGE

    def examples(self, spec: DataSpec, options: InputOptions = UNSET) -> Examples:
        """Return the examples, read as the run's data are; raises `Refused` if they don't fit them."""
        if self.kind is not spec.kind or (self.kind is Kind.TEXT and not spec.per_token):
            raise Refused(f"{self.where}: holds {self.kind}; the task's inputs are {spec.kind}")
        if self.x is None or self.y is None:
            (length,) = spec.shape
            x = windows(self.text, length)
            if not len(x):
                raise Refused(
                    f"{self.where}: has {len(self.text)} characters; at least {length + 1} are needed"
                )
            return Examples(x, None, spec.kind)
        divisor = divisor_of([self.x]) if spec.divisor is None else spec.divisor
        x = converted(self.x, self._channels_last(spec, options), divisor, options.scale)
        if x.shape[1:] != spec.shape:
            raise Refused(f"{self.where}: its inputs have shape {self.x.shape[1:]}, the task's {spec.shape}")
        values = values_in(self.y)
        if values != spec.values:
            raise Refused(
                f"{self.where}: has {values} real-valued targets an example; the task has {spec.values}"
            )
        if not values and self.y.max() >= spec.classes:
            raise Refused(f"{self.where}: has label {self.y.max()}; the task has 0 to {spec.classes - 1}")
        return Examples(x, self.y, spec.kind)

    def _channels_last(self, spec: DataSpec, options: InputOptions) -> bool:
        """Return whether images have their channels last: by the run's shape, if that decides it."""
        shape = () if self.x is None else self.x.shape
        first, last = shape[1:] == spec.shape, (*shape[3:], *shape[1:3]) == spec.shape
        if options.layout is None and first != last:
            return last
        return channels_last(shape, options.layout, f"{self.where}: inputs")


def read_own(path: Path, where: str, targets: Targets = Targets.LABELS) -> OwnFile:
    """Read a file.

    `.npz`: NumPy arrays `x` and `y` (or `x_train` and `y_train`); nothing is unpickled. `.parquet`: a column `label`,
    and one column of lists or any number of columns of numbers. `.txt`: UTF-8 text, for next-character prediction.

    `where` names it in errors, such as `--data 'scans.npz'`.

    Raises:
        Refused: It is missing, damaged, empty, or not such a file.
    """
    readers = {".npz": _read_npz, ".parquet": _read_parquet, ".txt": _read_text}
    if path.suffix not in readers:
        raise Refused(f"{where}: is of no known kind; allowed: {', '.join(SUFFIXES)}")
    try:
        path.open("rb").close()
        return readers[path.suffix](path, where, targets)
    except OSError as error:
        raise Refused(f"{where}: {error.strerror or error}") from None


def _read_npz(path: Path, where: str, targets: Targets) -> OwnFile:
    with opened_npz(path, where, "x and y", "numbers are needed") as file:
        for names in (("x", "y"), ("x_train", "y_train")):
            if set(names) <= set(file):
                x, y = (file[name] for name in names)
                break
        else:
            raise Refused(f"{where}: has no arrays x and y, but {', '.join(file) or 'none'}")
    return _labelled(x, y, where, targets)


def _read_parquet(path: Path, where: str, targets: Targets) -> OwnFile:
    import polars as pl

    try:
        table = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise Refused(f"{where}: is not a parquet file: {str(error).splitlines()[0]}") from None
    inputs = [name for name in table.columns if name != LABEL]
    if LABEL not in table.columns or not inputs:
        raise Refused(f"{where}: has the columns {', '.join(table.columns)}; needed are {LABEL!r} and inputs")
    nested = len(inputs) == 1 and table[inputs[0]].dtype.is_nested()
    x = _array(table[inputs[0]], where) if nested else table.select(inputs).to_numpy()
    return _labelled(x, _array(table[LABEL], where), where, targets)


def _array(column: pl.Series, where: str) -> NDArray[Any]:
    """Return a column of numbers, or of lists of one shape, as an array."""
    import polars as pl

    if not column.dtype.is_nested():
        return column.to_numpy()
    leaf: Any = column.dtype
    while isinstance(leaf, pl.List | pl.Array):
        leaf = leaf.inner
    return array_of(column.to_list(), str(leaf), f"{where}: column {column.name!r}")


def _read_text(path: Path, where: str, targets: Targets) -> OwnFile:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"{where}: is not UTF-8 text: {error.reason} at byte {error.start}") from None
    if not text:
        raise Refused(f"{where}: is empty")
    return OwnFile(where, text=text)


def _labelled(x: NDArray[Any], y: NDArray[Any], where: str, targets: Targets) -> OwnFile:
    """Return inputs with their targets, those in fedsim's form."""
    y, matched = one_for_each(x, y, targets)
    if not matched:
        raise Refused(
            f"{where}: inputs of shape {x.shape} and labels of {y.shape}; one label an input is needed"
        )
    if len(x) == 0:
        raise Refused(f"{where}: is empty; at least one example is needed")
    check_inputs(x, f"{where}: inputs")
    return OwnFile(where, x, as_targets(y, targets, f"{where}: labels"))


class OwnData:
    """A client's own examples, with the interface of `FederatedData`.

    `spec` is of the run's data; `held_out` is the share of the examples, from 0 to 1, that is held out for the client's own
    evaluation: the last ones; `clients` is the number of clients; `options` says how inputs are read.

    Raises:
        Refused: The examples don't fit the spec.
    """

    def __init__(
        self,
        file: OwnFile,
        spec: DataSpec,
        held_out: float,
        clients: int,
        options: InputOptions = UNSET,
    ) -> None:
        self.spec = spec
        self.clients = clients
        everything = file.examples(spec, options)
        middle = len(everything) - min(round(len(everything) * held_out), len(everything) - 1)
        self._data = ClientData(everything.part(slice(middle)), everything.part(slice(middle, None)))

    def client(self, index: int) -> ClientData:
        """Return the examples, for any client's number."""
        return self._data

    def training_sizes(self) -> NDArray[np.int64]:
        """Return ones, `(clients,)`: the clients' numbers of examples are unknown, and at least one."""
        return np.ones(self.clients, np.int64)
