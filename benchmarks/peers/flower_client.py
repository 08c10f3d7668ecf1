"""The client's side of the Flower app: a module of its own, so that Ray pickles it by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from setting import Setting, load, train

app = ClientApp()


@cache
def opened(folder: str, task: str, loader: bool) -> tuple[Setting, torch.nn.Module]:
    """Open data and network once an actor."""
    torch.set_num_threads(1)
    setting = load(Path(folder), task, loader=loader)
    return setting, setting.network()


@app.train()
def answer(message: Message, context: Context) -> Message:
    """Train from the weights received on this node's partition."""
    asked = message.content["config"]
    setting, network = opened(asked["folder"], asked["task"], asked["loader"])
    client = int(context.node_config["partition-id"])
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    draw = torch.Generator().manual_seed(1000 * int(asked["server-round"]) + client)
    train(network, setting.batches(client, draw))
    return Message(
        RecordDict(
            {
                "arrays": ArrayRecord(network.state_dict()),
                "metrics": MetricRecord({"num-examples": setting.held}),
            }
        ),
        reply_to=message,
    )


class Legacy(NumPyClient):
    """The same client for ``start_simulation``."""

    def __init__(self, client: int) -> None:
        self.client = client

    def fit(self, parameters, config):
        """Train from the weights received."""
        setting, network = opened(config["folder"], config["task"], config["loader"])
        with torch.no_grad():
            for here, there in zip(network.parameters(), parameters, strict=True):
                here.copy_(torch.from_numpy(there))
        draw = torch.Generator().manual_seed(1000 * config["round"] + self.client)
        train(network, setting.batches(self.client, draw))
        return [each.detach().numpy() for each in network.parameters()], setting.held, {}


def legacy(context: Context):
    """Make a client of a partition, as ``start_simulation`` asks."""
    return Legacy(int(context.node_config["partition-id"])).to_client()
