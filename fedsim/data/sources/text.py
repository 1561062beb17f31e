"""Text by user, for next-character prediction."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from fedsim.catalogue import Kind, Targets
from fedsim.data.raw import Raw, held_out_indices
from fedsim.data.tokens import VOCABULARY, windows
from fedsim.errors import Refused
from fedsim.options import TextJsonOptions, TextOptions

# Parts of the library's folder that are no modules, or that distributions omit.
_NOT_MODULES = {"__phello__", "dist-packages", "ensurepip", "idlelib", "lib2to3", "site-packages", "test"}
_NOT_MODULES |= {"tkinter", "turtledemo", "__pycache__"}


def stdlib(options: TextOptions, generator: np.random.Generator, targets: Targets) -> Raw:
    """Return the source of Python's own standard library; a top-level module is a user.

    The text of a package is that of its files, one after another, by name. Its size differs a little from
    one Python to the next.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    modules = {}
    for entry in sorted(folder.iterdir()):
        if entry.stem in _NOT_MODULES or not entry.stem.isidentifier():
            continue
        if entry.is_dir():
            files = [
                f for f in sorted(entry.rglob("*.py")) if not _NOT_MODULES & set(f.relative_to(entry).parts)
            ]
        else:
            files = [entry] if entry.suffix == ".py" else []
        text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
        if text:
            modules[entry.stem] = text
    return _by_user(modules, options, generator, f"the standard library in {str(folder)!r}")


def text_json(options: TextJsonOptions, generator: np.random.Generator, targets: Targets) -> Raw:
    """Read a JSON file `{"user": ["text", ...], ...}`; the texts of a user are joined by newlines.

    LEAF's own files, `{"users": [...], "user_data": {"user": {"x": [window, ...], "y": [character, ...]}}}`, are read
    too: a user's text is the characters that follow the windows (Caldas et al. 2018).

    Raises:
        Refused: The file is missing, not JSON, or not of that form.
    """
    where = f"data.path = {options.path!r}"
    try:
        tree = json.loads(Path(options.path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"{where}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise Refused(f"{where}: is not JSON in UTF-8, or nested too deeply") from None
    if isinstance(tree, dict) and isinstance(tree.get("user_data"), dict):
        tree = {user: _leaf(data, f"{where}: user {user!r}") for user, data in tree["user_data"].items()}
    if not isinstance(tree, dict) or not all(_is_texts(texts) for texts in tree.values()):
        raise Refused(f'{where}: must be a table {{"user": ["text", ...], ...}}')
    return _by_user({user: "\n".join(texts) for user, texts in tree.items()}, options, generator, where)


def _leaf(data: Any, where: str) -> Any:
    """Return the texts of a user of LEAF's: one from `x` and `y`, or those in `x` alone.

    LEAF puts blanks, as many as a window is long, before each line of a user's text, and moves the window by a character.
    """
    if not isinstance(data, dict) or "y" not in data:
        return data.get("x") if isinstance(data, dict) else data
    x, y = data.get("x"), data["y"]
    if not (_is_texts(x) and _is_texts(y) and len(x) == len(y) and all(len(c) == 1 for c in y)):
        raise Refused(f"{where}: needed are windows of text in x, and in y the character that follows each")
    for window, character, following in zip(x, y, x[1:], strict=False):
        if following.strip(" ") and following != window[1:] + character:
            raise Refused(
                f"{where}: its windows don't follow one another; needed is LEAF's data with each user's text in order "
                "(its sample.sh with -s niid)"
            )
    return ["".join(y)]


def _is_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _by_user(
    texts: Mapping[str, str], options: TextOptions, generator: np.random.Generator, where: str
) -> Raw:
    """Hold out a share of the users for the central test set, and make the others' examples."""
    least = max(options.min_characters, options.sequence_length + 1)
    kept = {user: text[: options.max_characters] for user, text in texts.items() if len(text) >= least}
    kept = {user: text for user, text in kept.items() if len(text) > options.sequence_length}
    if len(kept) < 2:
        raise Refused(
            f"{where}: has {len(kept)} users with at least {least} characters; at least 2 are needed"
        )
    users = list(kept)
    train, test = held_out_indices(len(users), options.test_share, generator)
    length = options.sequence_length
    train_windows = [windows(kept[users[i]], length) for i in train]
    return Raw(
        kind=Kind.TEXT,
        x_train=np.concatenate(train_windows),
        y_train=None,
        x_test=np.concatenate([windows(kept[users[i]], length) for i in test]),
        y_test=None,
        vocabulary=VOCABULARY,
        user=np.repeat(np.arange(len(train)), [len(w) for w in train_windows]),
        users=tuple(users[i] for i in train),
    )
