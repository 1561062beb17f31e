"""A server process: Flower's SuperLink and SuperExec, behind authentication, long polling and whole messages."""

__all__: list[str] = []
