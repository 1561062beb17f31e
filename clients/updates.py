"""Reads an update in a client's reply as one vector, and writes it back."""

from __future__ import annotations

from flwr.app import ArrayRecord, RecordDict

from fedsim.algorithms.protocol import Arrays
from fedsim.arrays import Values, arrays_in, record_of
from fedsim.layout import Layout
from fedsim.messages import ARRAYS
from fedsim.records import record_in
from fedsim.vectors import difference, plus


def changes_in(content: RecordDict, layout: Layout) -> dict[str, Arrays]:
    """Return the changes of the fields in a reply in clear."""
    return {name: arrays_in(record_in(content, ArrayRecord, name)) for name in layout.fields}


def update_in(content: RecordDict, received: ArrayRecord, layout: Layout) -> Values:
    """Return the update of a reply in clear as one vector, `(dimension,)`.

    Args:
        content: The reply's: the trained model, and the changes of the fields.
        received: The received model.
        layout: Of an update.
    """
    return layout.to_vector(
        difference(record_in(content, ArrayRecord, ARRAYS), received), changes_in(content, layout)
    )


def put_update(content: RecordDict, received: ArrayRecord, update: Values, layout: Layout) -> None:
    """Write an update, `(dimension,)`, into a reply: received model plus update, and the changes of the fields."""
    model, changes = layout.separate(layout.split(update))
    content[ARRAYS] = plus(received, model)
    for name, arrays in layout.typed(changes).items():
        content[name] = record_of(arrays)
