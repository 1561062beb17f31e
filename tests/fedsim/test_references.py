"""What may stand for a `"module:callable"`: only what is known to make the right thing before it is called."""

import functools
import sys
from typing import TYPE_CHECKING, Any

import pytest

from fedsim import catalogue
from fedsim.errors import Refused
from fedsim.references import check_makes, load_reference
from fedsim.tracking import tracker_of
from tests.support.models import asleep

if TYPE_CHECKING:
    from torch import nn

FINDERS = [
    catalogue.find_algorithm,
    catalogue.find_model,
    catalogue.find_optimizer,
    catalogue.find_round_schedule,
    catalogue.find_sampling,
    catalogue.find_schedule,
    catalogue.find_source,
    catalogue.find_strategy,
    catalogue.find_transform,
]
OTHERS = ["os:system", "subprocess:getoutput", "subprocess:Popen", "sys:exit", "builtins:print", "os:sep"]


@pytest.mark.parametrize("reference", OTHERS)
@pytest.mark.parametrize("find", FINDERS, ids=lambda find: str(find("a:b").__class__.__name__))
def test_what_makes_another_thing_is_refused_before_it_is_called(find: Any, reference: str) -> None:
    with pytest.raises(
        Refused, match=r"^is (a|the class) \w+; a [\w.]+ is needed: a subclass, or a function"
    ):
        find(reference).load()


@pytest.mark.parametrize("reference", OTHERS)
def test_trackers_too(reference: str) -> None:
    with pytest.raises(Refused, match=rf"^--track '{reference}': is (a|the class) .* is needed: a subclass"):
        tracker_of(reference)


def declared(task: object) -> "nn.Module":
    raise AssertionError("called")


def undeclared(task):  # type: ignore[no-untyped-def]
    raise AssertionError("called")


def other(task: object) -> int:
    raise AssertionError("called")


class Makers:
    def __call__(self, task: object) -> "nn.Module":
        raise AssertionError("called")

    def model(self, task: object) -> Any:
        raise AssertionError("called")


def test_subclasses_and_functions_that_say_so_pass_uncalled() -> None:
    for made in (
        load_reference("torch.nn:Linear"),
        asleep,
        declared,  # its annotation can't be evaluated, but it is in a file of one's own
        undeclared,
        functools.partial(undeclared, width=3),
        functools.cache(undeclared),
        Makers(),
        Makers().model,
    ):
        check_makes(made, "torch.nn:Module")
    check_makes(load_reference("tests.toys.own_optimizer:triangle"), "numbers:Real")
    for refused in (other, functools.partial(other), Makers, 3, None, load_reference("json:loads")):
        with pytest.raises(Refused, match=r"a torch.nn.Module is needed"):
            check_makes(refused, "torch.nn:Module")


def test_a_module_that_exits_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exiting_module.py").write_text("import sys\nsys.exit()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Refused, match=r"^'exiting_module:x' can't be loaded: .*SystemExit"):
        load_reference("exiting_module:x")
    assert "exiting_module" not in sys.modules
