"""torch's optimizers without what keeps torch.compile out of them: at the first call that imports torch._dynamo, and
with it sympy, 1.6 s of every start. Only the model's blocks are ever compiled here.
"""

import inspect
from functools import cache
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from torch.optim import Optimizer

    Class = TypeVar("Class", bound=type[Optimizer])

GUARDED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
"""Methods that torch wraps for nothing else; `step` it also keeps from recording gradients."""


@cache
def uncompiled(optimizer: "Class") -> "Class":
    """A class that computes what `optimizer` does. Its state is saved by `state_dict`; it cannot be pickled."""
    import torch

    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in GUARDED}
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    return cast("Class", type(optimizer.__name__, (optimizer,), methods | {"step": step}))
