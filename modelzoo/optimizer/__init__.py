"""Optimizers, one file a kind."""

from typing import TYPE_CHECKING

from modelzoo.base_config import union_of_kinds
from modelzoo.optimizer.base import OptimizerConfig

if TYPE_CHECKING:
    AnyOptimizer = OptimizerConfig
else:
    AnyOptimizer = union_of_kinds("modelzoo.optimizer", OptimizerConfig)
