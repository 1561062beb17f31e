"""The README's threat model names tests that are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[2]


def test_the_tests_that_the_threat_model_names_are_there() -> None:
    section = (TESTS.parent / "README.md").read_text(encoding="utf-8").partition("### Threat model")[2]
    named = set(re.findall(r"`(test_\w+)`", section.partition("\n## ")[0]))
    there = {
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 15
    assert named <= there, named - there
