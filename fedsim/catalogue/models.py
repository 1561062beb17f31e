"""Tasks and models."""

from __future__ import annotations

from fedsim import options as o
from fedsim.catalogue.entries import Kind, ModelEntry, TaskEntry, finder, table

TASKS = table(
    TaskEntry(
        "classification",
        "fedsim.tasks.classification:Classification",
        "a label for each input: cross-entropy; accuracy",
    ),
    TaskEntry(
        "next-character",
        "fedsim.tasks.next_character:NextCharacter",
        "the character that follows each position of a text: cross-entropy; accuracy",
    ),
    TaskEntry(
        "regression",
        "fedsim.tasks.regression:Regression",
        "real-valued targets: mean squared error or Huber's loss; RMSE, MAE, R2",
        options=o.RegressionOptions,
    ),
)
find_task = finder(TASKS)

MODELS = table(
    ModelEntry(
        "linear",
        "fedsim.models.dense:linear",
        "one linear layer: multinomial logistic regression, or linear regression",
        kinds=frozenset({Kind.IMAGE, Kind.FEATURES}),
    ),
    ModelEntry(
        "mlp",
        "fedsim.models.dense:mlp",
        "fully connected layers with ReLU; by default McMahan's 2NN",
        options=o.MlpOptions,
        kinds=frozenset({Kind.IMAGE, Kind.FEATURES}),
    ),
    ModelEntry(
        "cnn",
        "fedsim.models.cnn:Cnn",
        "McMahan's CNN: two 5x5 convolutions with pooling, 512 hidden units",
        options=o.CnnOptions,
        kinds=frozenset({Kind.IMAGE}),
    ),
    ModelEntry(
        "lstm",
        "fedsim.models.lstm:Lstm",
        "character embedding and LSTM layers; predicts the next character or the text's label",
        options=o.LstmOptions,
        kinds=frozenset({Kind.TEXT}),
    ),
)
find_model = finder(MODELS, draws=True)
