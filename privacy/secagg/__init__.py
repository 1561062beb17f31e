"""Secure aggregation: of the clients' vectors the server learns only the sum.

Bonawitz et al. 2017 (complete graph) and Bell et al. 2020 (k-regular graph), as state machines that take and return
bytes: `client.ClientSession`, `server.ServerSession`, and `ideal` for the same without cryptography.
"""

__all__: list[str] = []
