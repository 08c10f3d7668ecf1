"""Floating-point operations, counted as they are called."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Operations(TorchDispatchMode):
    """Count what torch's own ``FlopCounterMode`` counts.

    That one imports torch's compiler the first time it counts, which takes longer than many an
    experiment.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call an operation, and count it if it is one that multiplies."""
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", None)  # operators of operators have none
        count = flop_registry.get(packet)
        if count is None and packet is not None:
            with self:  # what is made of other operations is those
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if count is not None:
            self.total += count(*args, **kwargs, out_val=out)
        return out
