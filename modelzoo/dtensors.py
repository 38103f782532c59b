"""Which tensors ranks hold in parts, without torch.distributed.tensor: importing it takes half a second."""

import sys
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.tensor import DTensor


def is_dtensor(tensor: "Tensor") -> "TypeGuard[DTensor]":
    """Whether this is a rank's part of a tensor. Before anybody has imported DTensor there is none."""
    if "torch.distributed.tensor" not in sys.modules:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)
