import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedsim.experiments.benchmarks.ngram import NGram


def test_ngrams_by_hand() -> None:
    # After 1 came 2 twice and 3 once; after (3, 1) came 3; 2 is the most frequent of all.
    train = [np.array([[1, 2, 1, 2, 2], [3, 1, 3, 2, 2]], dtype=np.uint8)]
    test = np.array([[3, 1, 3], [0, 1, 2]], dtype=np.uint8)
    # Unigram: always 2 -> of 1, 3, 1, 2 only the last is right.
    assert NGram(1, 4, train).accuracy(test) == 1 / 4
    # Bigram: after 3 comes 1 (1 and 2 once each, the smaller wins), after 1 comes 2, after 0 nothing: 2.
    assert NGram(2, 4, train).accuracy(test) == 2 / 4
    # Trigram: after (3, 1) comes 3; (0, 1) was never seen, so 2 after 1.
    assert NGram(3, 4, train).accuracy(test) == 3 / 4


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=5))
def test_a_trigram_is_a_dictionary_of_counts(rows: list[list[int]]) -> None:
    windows = np.array(rows, dtype=np.uint8)

    def most_frequent(context: tuple[int, ...]) -> int | None:
        n = len(context)
        nexts = [row[i + n] for row in rows for i in range(6 - n) if tuple(row[i : i + n]) == context]
        return max(sorted(set(nexts)), key=nexts.count) if nexts else None

    right = 0
    for row in rows:
        for i in range(1, 6):
            guesses = [most_frequent(tuple(row[i - n : i])) for n in (2, 1, 0) if i >= n]
            right += next(guess for guess in guesses if guess is not None) == row[i]
    assert NGram(3, 4, [windows]).accuracy(windows) == right / (5 * len(rows))
