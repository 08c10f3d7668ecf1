"""A model of each client's own, from what the federation learned together."""

from __future__ import annotations

from collections.abc import Sequence

from dai_lab.core import Compute, Key, Rows, State, Task
from dai_lab.learning.descent import Descent
from dai_lab.learning.training import descend, plans_of


def common(task: Task, state: State, clients: Sequence[int], *, key: Key, compute: Compute) -> None:
    """Give every client the common model.

    Args:
        task: Unused.
        state: Unused.
        clients: Unused.
        key: Unused.
        compute: Unused.
    """


def remembered(
    task: Task, state: State, clients: Sequence[int], *, key: Key, compute: Compute
) -> Rows:
    """Give every client the model it trained for itself; who has none takes the common one.

    Args:
        task: Unused.
        state: Holds own models as ``clients/personal`` (Ditto, pFedMe).
        clients: Whose models.
        key: Unused; nothing is drawn.
        compute: Unused.
    """
    return state.recall("clients/personal", clients, state.params)


def fine_tuned(
    task: Task,
    state: State,
    clients: Sequence[int],
    *,
    key: Key,
    compute: Compute,
    epochs: int = 1,
    batch_size: int = 32,
    rate: float = 0.1,
) -> Rows:
    """Let every client train the common model a little more on its own examples.

    Args:
        task: The model and who holds which examples.
        state: The common model.
        clients: Whose models.
        key: Where each client's order of examples is drawn.
        compute: Where and how gradients are computed.
        epochs: Passes over a client's examples, 0 or more; 0 leaves the common model.
        batch_size: Examples a step; 0 takes all of a client's examples.
        rate: Learning rate, above 0.

    Raises:
        ValueError: A knob is out of range.

    Source:
        Wang et al. 2019, arXiv:1910.10252, section 3; Cheng, Chadha and Duchi 2021,
        arXiv:2108.07313.
    """
    for knob, number in (("epochs", epochs), ("batch_size", batch_size)):
        if number < 0:
            raise ValueError(f"personal.{knob} must be 0 or more, got {number}")
    if not rate > 0:
        raise ValueError(f"personal.rate must be above 0, got {rate}")
    if not epochs:
        return state.params.repeat(len(clients), 1)
    plans = plans_of(task, clients, key=key, epochs=epochs, batch_size=batch_size)
    rule = Descent(rate)
    found = descend(task, state.params, clients, plans, rule, key=key, compute=compute)
    return state.params + found.rows
