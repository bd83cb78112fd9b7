"""What a device other than the CPU is sent, seen without one."""

from typing import Any

import torch as th
from torch.utils._python_dispatch import TorchDispatchMode


class NoFloat64(TorchDispatchMode):
    """Raises wherever a float64 tensor would arise on a device, as on Apple's MPS."""

    def __init__(self, device: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, th.Tensor) and tensor.device.type == self.device and tensor.dtype == th.float64:
                raise TypeError(f"{function} gives a float64 tensor on {tensor.device}")
        return out


class Uploads(TorchDispatchMode):
    """Counts the bytes that go from the CPU to another device, by number of bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function is th.ops.aten._to_copy.default and args[0].device.type == "cpu" and out.device.type != "cpu":
            self.sizes.append(args[0].nbytes)
        return out
