"""What a device other than the CPU is sent, seen without one."""

from typing import Any

import torch as th
from torch.utils._python_dispatch import TorchDispatchMode


class Uploads(TorchDispatchMode):
    """Counts the bytes that go from the CPU to another device, by number of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function is th.ops.aten._to_copy.default and args[0].device.type == "cpu" and out.device.type != "cpu":
            self.sizes.append(args[0].nbytes)
        return out
