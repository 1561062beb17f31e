"""The `fedsim` command."""

from fedsim.cli.app import app

__all__ = ["app"]
