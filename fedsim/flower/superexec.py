"""The program of Flower's SuperExec, which starts a ServerApp for each run."""

from flwr.supercore.cli import flower_superexec


def main() -> None:
    """Run SuperExec with the options of the command line."""
    flower_superexec()
