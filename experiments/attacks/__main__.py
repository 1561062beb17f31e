"""Attacks on secure aggregation: on vulnerable protocols, and on this project's protocol in both of its modes.

python -m fedsim.experiments.attacks [NAME...] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedsim.experiments.attacks.finding import Finding
from fedsim.experiments.attacks.gallery import ATTACKS
from fedsim.experiments.benchmarks import command
from fedsim.privacy.secagg.topology import Adversary


def findings(name: str) -> dict[str, Finding]:
    """Run one attack against all protocols."""
    attack = ATTACKS[name]
    return {"control": attack.control()} | {mode.value: attack.ours(mode) for mode in Adversary}


def table(rows: dict[str, dict[str, Finding]]) -> Table:
    """Return the findings, an attack a row."""
    made = Table(title="Attacks on secure aggregation", show_lines=True)
    made.add_column("attack", no_wrap=True)
    made.add_column("control: what falls to it", ratio=4)
    for mode in Adversary:
        made.add_column(f"ours, {mode.value}", ratio=3)
    for name, found in rows.items():
        control = f"[dim]{escape(ATTACKS[name].CONTROL)}[/dim]\n{_cell(found['control'])}"
        made.add_row(name, control, *(_cell(found[mode.value]) for mode in Adversary))
    return made


def _cell(finding: Finding) -> str:
    verdict = "[red]succeeds[/red]" if finding.succeeded else "[green]refused[/green]"
    numbers = finding.numbers() if finding.succeeded else ""
    return f"{verdict}: {escape(finding.what)}" + (f"\n{escape(numbers)}" if numbers else "")


def as_json(rows: dict[str, dict[str, Finding]]) -> str:
    """Return the findings as JSON."""
    tree: dict[str, Any] = {
        name: {"control": ATTACKS[name].CONTROL, "findings": {where: asdict(f) for where, f in found.items()}}
        for name, found in rows.items()
    }
    return json.dumps(tree, indent=2) + "\n"


def _name(text: str) -> str:
    if text not in ATTACKS:
        raise argparse.ArgumentTypeError(f"{text!r}: must be of {', '.join(ATTACKS)}")
    return text


def main(arguments: Sequence[str] | None = None, console: Console | None = None) -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", type=_name, metavar="NAME", help=f"of {', '.join(ATTACKS)}")
    parser.add_argument("--json", type=command.writable, metavar="FILE", help="write all findings there")
    given = parser.parse_args(arguments)
    rows = {name: findings(name) for name in given.names or ATTACKS}
    if given.json:
        given.json.write_text(as_json(rows))
    (console or command.console()).print(table(rows), highlight=False)


if __name__ == "__main__":
    main()
