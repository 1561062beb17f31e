"""Text as character tokens, cut into examples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The vocabulary is fixed and public, so that it reveals nothing of users' texts; token 0 stands for all other
# characters.
CHARACTERS = "\t\n" + "".join(map(chr, range(32, 127)))
VOCABULARY = len(CHARACTERS) + 1

_TOKENS = np.zeros(128, dtype=np.uint8)
_TOKENS[[ord(character) for character in CHARACTERS]] = np.arange(1, VOCABULARY)


def tokens(text: str) -> NDArray[np.uint8]:
    r"""Return a text's tokens, `(characters,)` uint8 below `VOCABULARY`.

    >>> tokens("\ta~é").tolist()
    [1, 68, 97, 0]
    """
    codes: NDArray[np.uint32] = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    found: NDArray[np.uint8] = _TOKENS[np.where(codes < 128, codes, 0)]
    return found


def windows(text: str, length: int) -> NDArray[np.uint8]:
    """Cut a text into examples of `length` characters to read and one more to predict, `(examples, length + 1)`.

    An example begins with the last character of the one before, so each character except the first is predicted once;
    an incomplete example at the end is dropped.
    """
    t = tokens(text)
    count = max((len(t) - 1) // length, 0)
    cut: NDArray[np.uint8] = t[np.arange(count)[:, None] * length + np.arange(length + 1)[None, :]]
    return cut
