"""The operator's side of a deployment: submit runs, follow them, copy and stop them."""

__all__: list[str] = []
