"""The base of every table of an experiment file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


def kebab(name: str) -> str:
    """Return the TOML key of a Python name: `learning_rate` is `learning-rate`."""
    return name.replace("_", "-")


class Section(BaseModel):
    """A frozen, strictly typed table; its keys are the field names with hyphens for underscores."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=kebab,
        populate_by_name=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
