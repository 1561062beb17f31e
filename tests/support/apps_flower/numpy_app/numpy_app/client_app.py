"""The ClientApp."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from numpy_app.task import load_data, train

app = ClientApp()


@app.train()
def fit(message: Message, context: Context) -> Message:
    partition = context.node_config["partition-id"]
    (w,) = message.content["arrays"].to_numpy_ndarrays()
    x, y = load_data(partition)
    w = train(w, x, y, context.run_config["learning-rate"], context.run_config["local.steps"])
    metrics = MetricRecord({"num-examples": len(x), "partition-id": partition})
    return Message(RecordDict({"arrays": ArrayRecord([w]), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    partition = context.node_config["partition-id"]
    (w,) = message.content["arrays"].to_numpy_ndarrays()
    x, y = load_data(partition)
    error = float(np.square(x @ w - y).mean())
    metrics = MetricRecord({"num-examples": len(x), "partition-id": partition, "error": error})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
