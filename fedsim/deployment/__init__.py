"""Deployment: server, clients and operator as processes of their own, over Flower's SuperLink and its Fleet API.

Flower's APIs are served behind TLS, authentication, limits and long polling, and messages travel whole.
"""

__all__: list[str] = []
