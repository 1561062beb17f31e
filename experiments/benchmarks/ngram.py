"""Accuracy of n-grams at predicting the next character of an experiment's text.

    python -m fedsim.experiments.benchmarks.ngram experiments/configs/stdlib-lstm.toml --json ngram.json

A baseline for an LSTM: the character that most often followed the last n - 1 characters in all clients' training
text; an unseen context falls back to one character less. It is fitted on the clients' training examples and tested on
the central test set, on the same predictions as the LSTM (so the first of an example has one character of context,
for both).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedsim import Experiment
from fedsim.data import FederatedData, prepare


class NGram:
    """The most frequent next token after each context of up to `n - 1` tokens.

    Args:
        n: At least 1.
        vocabulary: Number of different tokens.
        windows: Training text, `(examples, length + 1)`.
    """

    def __init__(self, n: int, vocabulary: int, windows: list[NDArray[np.uint8]]) -> None:
        self.vocabulary = vocabulary
        self.best = [self._fit(context, windows) for context in range(n)]

    def _fit(self, context: int, windows: list[NDArray[np.uint8]]) -> NDArray[np.int64]:
        """Return the best next token of each context, `(vocabulary ** context,)`, -1 for unseen contexts."""
        v = self.vocabulary
        counts = np.zeros(v ** (context + 1), dtype=np.int64)
        for part in windows:
            codes = self._codes(part, context + 1)
            counts += np.bincount(codes.ravel(), minlength=len(counts))
        table = counts.reshape(-1, v)
        return np.where(table.sum(axis=1) > 0, table.argmax(axis=1), -1)

    def _codes(self, windows: NDArray[np.uint8], length: int) -> NDArray[np.int64]:
        """Return the number of each run of `length` tokens, `(examples, tokens - length + 1)`."""
        tokens = windows.astype(np.int64)
        positions = tokens.shape[1] - length + 1
        codes = np.zeros((len(tokens), positions), dtype=np.int64)
        for offset in range(length):
            codes = codes * self.vocabulary + tokens[:, offset : offset + positions]
        return codes

    def accuracy(self, windows: NDArray[np.uint8]) -> float:
        """Return the share of right predictions, of all tokens except the first of each example."""
        predicted = np.full((len(windows), windows.shape[1] - 1), -1, dtype=np.int64)
        for context in range(len(self.best)):  # longer contexts, if seen, overwrite shorter ones
            guess = self.best[context][self._codes(windows, context)] if context else self.best[0][[[0]]]
            if context:
                guess = guess[:, :-1]  # the last context has nothing after it
                reach = predicted[:, context - 1 :]
                reach[...] = np.where(guess >= 0, guess, reach)
            else:
                predicted[...] = guess
        return float((predicted == windows[:, 1:]).mean())


def accuracies(data: FederatedData, longest: int = 3) -> dict[str, float]:
    """Return the accuracy of the 1-gram to the `longest`-gram on the central test set."""
    windows = [data.client(client).train.x for client in range(data.clients)]
    return {
        f"{n}-gram": NGram(n, data.spec.vocabulary, windows).accuracy(data.test.x)
        for n in range(1, longest + 1)
    }


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("config", help="an experiment over text")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    result = accuracies(prepare(Experiment.load(arguments.config, arguments.set)))
    for name, accuracy in result.items():
        print(f"{name}  {accuracy:.4f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
