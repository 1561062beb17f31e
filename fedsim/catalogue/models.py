"""Tasks and models."""

from __future__ import annotations

from fedsim import options as o
from fedsim.catalogue.entries import Kind, ModelEntry, TaskEntry, find, table

TASKS = table(
    TaskEntry(
        name="classification",
        reference="fedsim.tasks.classification:Classification",
        summary="a label for each input: cross-entropy; accuracy",
    ),
    TaskEntry(
        name="next-character",
        reference="fedsim.tasks.next_character:NextCharacter",
        summary="the character that follows each position of a text: cross-entropy; accuracy",
    ),
    TaskEntry(
        name="regression",
        reference="fedsim.tasks.regression:Regression",
        summary="real-valued targets: mean squared error or Huber's loss; RMSE, MAE, R2",
        options=o.RegressionOptions,
    ),
)


MODELS = table(
    ModelEntry(
        name="linear",
        reference="fedsim.models.dense:linear",
        summary="one linear layer: multinomial logistic regression, or linear regression",
        kinds=frozenset({Kind.IMAGE, Kind.FEATURES}),
    ),
    ModelEntry(
        name="mlp",
        reference="fedsim.models.dense:mlp",
        summary="fully connected layers with ReLU; by default McMahan's 2NN",
        options=o.MlpOptions,
        kinds=frozenset({Kind.IMAGE, Kind.FEATURES}),
    ),
    ModelEntry(
        name="cnn",
        reference="fedsim.models.cnn:cnn",
        summary="McMahan's CNN: two 5x5 convolutions with pooling, 512 hidden units",
        options=o.CnnOptions,
        kinds=frozenset({Kind.IMAGE}),
    ),
    ModelEntry(
        name="lstm",
        reference="fedsim.models.lstm:lstm",
        summary="character embedding and LSTM layers; predicts the next character or the text's label",
        options=o.LstmOptions,
        kinds=frozenset({Kind.TEXT}),
    ),
)


def find_task(name: str) -> TaskEntry:
    """Return the entry of a task; `"module:callable"` is the user's own."""
    if ":" in name:
        return TaskEntry(name=name, reference=name, summary="", options=o.FreeOptions)
    return find(TASKS, name, ', or "module:callable"')


def find_model(name: str) -> ModelEntry:
    """Return the entry of a model; `"module:callable"` is the user's own, for any kind of data."""
    if ":" in name:
        return ModelEntry(name=name, reference=name, summary="", options=o.FreeOptions, draws=True)
    return find(MODELS, name, ', or "module:callable"')
