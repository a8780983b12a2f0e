"""What the host waits for."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class DependsOnData(TorchDispatchMode):
    """Notes operators that the host waits for: of a shape, or a number, that follows from values."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        is_tagged = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags)
        # An index has its tag whatever it is by; only by a mask does its result's shape depend on values.
        is_plain_index = name == "index" and all(by is None or by.dtype == torch.int64 for by in args[1])
        if name == "nms" or (is_tagged and not is_plain_index):
            self.names.append(name)
        return func(*args, **(kwargs or {}))
