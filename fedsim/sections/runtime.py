"""The table `[runtime]`."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fedsim.privacy.settings import Section, invalid


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
