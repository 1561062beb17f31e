"""A ClientApp with a handler for each rule that a Grid must follow."""

import time
from collections.abc import Iterator

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

app = ClientApp()


@app.lifespan()
def lifespan(context: Context) -> Iterator[None]:
    _count(context, "begun")
    yield
    _count(context, "ended")


def _count(context: Context, what: str) -> ConfigRecord:
    counts = context.state.config_records.setdefault("counts", ConfigRecord({}))
    counts[what] = int(counts.get(what, 0)) + 1  # type: ignore[arg-type]
    return counts


@app.query()
def count(message: Message, context: Context) -> Message:
    counts = _count(context, "queries")
    told = {**counts, "client": context.node_config["partition-id"]}
    return Message(RecordDict({"told": ConfigRecord(told)}), reply_to=message)


@app.query("slow")
def slow(message: Message, context: Context) -> Message:
    _count(context, "queries")
    time.sleep(1.0)
    return Message(RecordDict(), reply_to=message)


@app.query("short")
def short(message: Message, context: Context) -> Message:
    return Message(RecordDict(), reply_to=message, ttl=0.5)


@app.query("fail")
def fail(message: Message, context: Context) -> Message:
    _count(context, "queries")
    raise RuntimeError("out of luck")


@app.query("decline")
def decline(message: Message, context: Context) -> Message:
    _count(context, "queries")
    return Message(Error(ErrorCode.MOD_FAILED_PRECONDITION, "declined"), reply_to=message)


@app.query("reconfigure")
def reconfigure(message: Message, context: Context) -> Message:
    _count(context, "queries")
    context.run_config["new"] = 1
    return Message(RecordDict(), reply_to=message)


@app.query("nothing")
def nothing(message: Message, context: Context) -> None:
    return None


@app.query("echo")
def echo(message: Message, context: Context) -> Message:
    return message


@app.train()
def scribble(message: Message, context: Context) -> Message:
    """Answer with the message's content as it came, and change the message's own."""
    config, arrays = message.content["config"], message.content["arrays"]
    came = RecordDict(
        {"came": ConfigRecord(dict(config)), "arrays": ArrayRecord({"w": Array(arrays["w"].numpy())})}
    )
    config["number"] = 99
    config["mine"] = True
    arrays["w"].data = Array(arrays["w"].numpy() * 0).data
    message.content["more"] = ConfigRecord({})
    return Message(came, reply_to=message)
