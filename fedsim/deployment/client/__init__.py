"""A client process: its connection to the server, the loop that answers messages, and its state directory."""

__all__: list[str] = []
