"""The adapter to Flower: the only package that imports Flower's private modules.

Public are the modules that Flower's API reference lists (`flwr.app`, `flwr.clientapp`, `flwr.clientapp.mod`,
`flwr.serverapp`, `flwr.serverapp.strategy`, `flwr.simulation`) and `flwr.clientapp.typing`, the types of its mods. They may
be imported anywhere. All other modules of `flwr` may change in any release: the rest of fedsim reaches them through here.

Flower reads its environment variables when it is imported, and importing it takes time. So this package itself imports
nothing, and each of its modules imports no more of Flower than it needs.
"""

__all__: list[str] = []
