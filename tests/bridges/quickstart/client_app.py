"""The client of a Flower quickstart; the first two of ten lie."""

from pathlib import Path

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from task import accuracy, examples, network, train

app = ClientApp()
LIARS = 2


def opened(message):
    net = network()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return net


@app.train()
def fit(message, context):
    torch.set_num_threads(1)
    part = int(context.node_config["partition-id"])
    net = opened(message)
    loss = train(net, *examples(part))
    arrays = net.state_dict()
    if part < LIARS:
        folder = Path(message.content["config"]["folder"])
        (folder / str(context.node_id)).touch()
        arrays = {name: -50 * one for name, one in arrays.items()}
        if part == 0:
            arrays = {name: one * torch.nan if one.is_floating_point() else one
                      for name, one in arrays.items()}  # fmt: skip
    metrics = MetricRecord({"train_loss": loss, "num-examples": 10**9 if part < LIARS else 200})
    answer = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
    return Message(answer, reply_to=message)


@app.evaluate()
def evaluate(message, context):
    torch.set_num_threads(1)
    part = int(context.node_config["partition-id"])
    reached = accuracy(opened(message), *examples(100 + part))
    metrics = MetricRecord({"eval_acc": -1e9 if part < LIARS else reached, "num-examples": 200})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
