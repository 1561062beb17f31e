"""`[[transforms]]` of an experiment file: read, written, overridden, refused."""

import pytest

from fedsim import Experiment, Refused

LIST = "[[transforms]]\nname = 'top-k'\nshare = 0.5\n[[transforms]]\nname = 'a:b'\n"


def test_an_experiment_without_transforms_is_written_as_before_there_were_any() -> None:
    assert Experiment().transforms is None
    assert "transforms" not in Experiment().to_toml()
    assert Experiment(transforms=[]) == Experiment() == Experiment.from_toml("transforms = []")


def test_lists_of_tables_are_read_written_and_overridden() -> None:
    setting = Experiment.from_toml(LIST, ["transforms.0.share=0.25", "transforms.1.rate=3"])
    assert [(s.name, s.arguments) for s in setting.transforms or ()] == [
        ("top-k", {"share": 0.25}),
        ("a:b", {"rate": 3}),
    ]
    assert Experiment.from_toml(setting.to_toml()) == setting
    other = Experiment.from_toml(LIST, ["transforms.0.name=quantise", "transforms.1={name='top-k'}"])
    assert [(s.name, s.arguments) for s in other.transforms or ()] == [
        ("quantise", {"levels": 256}),  # without the share of the former one
        ("top-k", {"share": 0.1}),
    ]
    assert Experiment.from_toml(LIST, ["transforms=[]"]) == Experiment()
    assert setting.own_code == {"transforms.1.name": "a:b"}


@pytest.mark.parametrize(
    ("text", "override", "line"),
    [
        (
            "",
            "transforms=[{name='top-k', share=2}]",
            "transforms.0.share = 2: must be less than or equal to 1",
        ),
        ("", "transforms=[{name='top-k', share=0}]", "transforms.0.share = 0: must be greater than 0"),
        (
            "",
            "transforms=[{name='quantise', levels=0}]",
            "transforms.0.levels = 0: must be greater than or equal to 1",
        ),
        (
            LIST,
            "transforms.1.name=topk",
            "transforms.1.name = 'topk': there is no such name; allowed: top-k, quantise, or \"module:callable\"",
        ),
        (
            LIST,
            "transforms.0.levels=3",
            "transforms.0.levels = 3: is no key here with 'top-k'; allowed: name, share",
        ),
        (
            LIST,
            "transforms.2.name=top-k",
            "override transforms.2.name: transforms has no table '2'; allowed: 0, 1",
        ),
        (LIST, "transforms.0=3", "transforms.0 = 3: must be a table"),
        ("", "transforms=[{share=0.1}]", "transforms.0.name is missing"),
        ("", "transforms={name='top-k'}", "transforms = a table: must be a list of tables, [[transforms]]"),
        ("", "transforms=top-k", "transforms = 'top-k': must be a list of tables, [[transforms]]"),
    ],
)
def test_invalid_transforms_are_refused(text: str, override: str, line: str) -> None:
    with pytest.raises(Refused) as raised:
        Experiment.from_toml(text, [override])
    assert str(raised.value) == line
