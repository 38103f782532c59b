"""Callbacks, one file a kind."""

from typing import TYPE_CHECKING

from modelzoo.base_config import union_of_kinds
from modelzoo.trainer.callbacks.base import CallbackConfig

if TYPE_CHECKING:
    AnyCallback = CallbackConfig
else:
    AnyCallback = union_of_kinds("modelzoo.trainer.callbacks", CallbackConfig)
