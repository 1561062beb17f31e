"""The tables of the simulation: `[faults]` and `[runtime]`."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from fedsim.privacy.settings import Section, invalid


class FaultsSection(Section):
    """Injected faults: a drawn client has at most one of these in a round.

    Faults depend on seed, round and client, so runs with faults are reproducible. Each counts as a failure of the
    round, with its reason; the round continues with the other clients. With secure aggregation a client is lost at a
    random stage; if it is lost after its upload, its update is in the sum.
    """

    dropout: float = Field(default=0.0, ge=0, le=1)
    """Probability that a client neither trains nor answers."""
    crash: float = Field(default=0.0, ge=0, le=1)
    """Probability that a client raises an error in training."""
    nan: float = Field(default=0.0, ge=0, le=1)
    """Probability that a client trains and sends NaN, which the server refuses."""
    straggler: float = Field(default=0.0, ge=0, le=1)
    """Probability that a client is slow; it fails if its delay exceeds the deadline."""
    delay: float | None = Field(default=None, gt=0)
    """Mean of a straggler's exponential delay, in seconds of virtual time."""
    deadline: float | None = Field(default=None, gt=0)
    """Seconds of virtual time after which a straggler is late; it does not train then."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        total = math.fsum([self.dropout, self.crash, self.nan, self.straggler])
        if total > 1 + 1e-9:  # 0.7 + 0.2 + 0.1 may be a little more than 1 in binary
            raise invalid("dropout + crash + nan + straggler", round(total, 9), "must be at most 1")
        times = {"delay": self.delay, "deadline": self.deadline}
        missing = [f"faults.{name}" for name, seconds in times.items() if seconds is None]
        if self.straggler > 0 and missing:
            raise invalid("straggler", self.straggler, f"needs {' and '.join(missing)}")
        if len(missing) == 1:
            key, seconds = next((name, seconds) for name, seconds in times.items() if seconds is not None)
            raise invalid(key, seconds, f"needs {missing[0]}")
        return self

    @property
    def active(self) -> bool:
        """Whether faults are possible."""
        return max(self.dropout, self.crash, self.nan, self.straggler) > 0


class RuntimeSection(Section):
    """Settings that affect only speed, not results."""

    engine: Literal["local", "ray", "sequential"] = "local"
    """`local`: worker processes; `ray`: actors of a Ray cluster; `sequential`: in this process."""
    workers: int = Field(default=0, ge=0, le=1024)
    """Worker processes or actors; 0: one for each core."""
    address: str = ""
    """Address of a Ray cluster (`auto`: this machine's); empty: Ray is started on this machine."""

    @model_validator(mode="after")
    def _check_address(self) -> Self:
        if self.address and self.engine != "ray":
            raise invalid("address", self.address, f"is for engine = 'ray', not {self.engine!r}")
        return self
