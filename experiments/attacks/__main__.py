"""Run the attacks and print what they found.

python -m experiments.attacks [NAME...] [--json FILE]
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from experiments.attacks.gallery import ATTACKS
from experiments.benchmarks import command


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Print the table, and write it where asked."""
    parser = command.arguments(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ATTACKS)} (default: all)")
    given = parser.parse_args(arguments)
    console = console or command.console()
    for name in given.names or ATTACKS:
        attack = ATTACKS[name]
        found = attack.control()
        console.print(name, attack.CONTROL, found.succeeded, found.what, found.numbers(), highlight=False)


if __name__ == "__main__":
    main()
