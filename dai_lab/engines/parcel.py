"""What a worker is told once: local training, the task and how to compute, its tensors aside."""

from __future__ import annotations

import io
import pickle
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from dai_lab.engines.arena import Arena, Places


def pack(thing: Any, arena: Arena) -> Places:
    """Write a thing that another process is to work with, and say where it lies.

    Args:
        thing: Anything that can be pickled.
        arena: Where its tensors go, each once, and the rest of it.

    Raises:
        ValueError: Something in it can be found in this process alone.
    """
    file = io.BytesIO()
    packer = _Packer(file)
    try:
        packer.dump(thing)
    except (pickle.PicklingError, AttributeError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"engine=workers: {reason}, so it cannot go elsewhere{WAYS}") from None
    rest = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
    return arena.write({"": rest, **packer.tensors})


def unpack(arena: Arena, places: Places) -> Any:
    """Put together what :func:`pack` took apart; its tensors stay where they lie."""
    tensors = arena.read(places)
    return _Unpacker(io.BytesIO(tensors[""].numpy().tobytes()), tensors).load()


WAYS = "; put it in a module, or use engine=local"


class _Packer(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}

    def persistent_id(self, thing: Any) -> tuple[str, bool | None] | None:
        """Set plain tensors and weights aside; all else is pickled."""
        weight = type(thing) is Parameter
        plain = type(thing) is Tensor and not thing.requires_grad
        if not (weight or plain):
            return None
        if thing.device.type != "cpu" or thing.layout != torch.strided or thing.is_quantized:
            return None
        name = self._names.setdefault(id(thing), str(len(self._names)))
        self.tensors[name] = thing
        return name, thing.requires_grad if weight else None

    def reducer_override(self, thing: Any) -> Any:
        """Refuse what only this process's own script or notebook defines."""
        if isinstance(thing, type | FunctionType) and thing.__module__ == "__main__":
            raise ValueError(
                f"engine=workers: {thing.__qualname__} lives in a notebook cell or script{WAYS}"
            )
        return NotImplemented


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tensors: dict[str, Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors
        self._weights: dict[str, Parameter] = {}

    def persistent_load(self, name: tuple[str, bool | None]) -> Tensor:
        """Find a tensor that was set aside."""
        which, learns = name
        if learns is None:
            return self._tensors[which]
        return self._weights.setdefault(which, Parameter(self._tensors[which], learns))
