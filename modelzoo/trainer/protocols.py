"""What the trainer asks of the model and of the data, which arrive as objects."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

Batch = Mapping[str, "np.ndarray[Any, Any]"]
"""`input_ids`, `labels` (B, T) integers and `loss_mask` (B, T) booleans; where documents are isolated also
`position_ids` and `segment_ids` (B, T) integers."""


class LanguageModel(Protocol):
    """The loss as (sum of nats over the unmasked positions, their number), so that parts add up exactly."""

    def loss(
        self,
        input_ids: Tensor,
        labels: Tensor,
        loss_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        row_sums: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Without a `loss_mask` every token counts. To `row_sums` (B,), where they are given, each row's own sum is
        added."""
        ...


class TrainingData(Protocol):
    """Batches as a pure function of the step: any step is reached at once, also after a restart."""

    @property
    def notes(self) -> Sequence[str]: ...

    def batch(self, step: int) -> Batch: ...

    def state(self, step: int) -> dict[str, Any]: ...

    def summary(self, num_steps: int) -> Sequence[str]:
        """What a run of so many steps takes of each source, a line each."""
        ...

    def seen(self, step: int, left_out: Iterable[tuple[int, int]] = ()) -> Mapping[str, float]:
        """What the batches before this step have read, by the names of the record's numbers; a pure function. Batches
        that were `left_out` (first to last) do not count."""
        ...


class TextGenerator(Protocol):
    """Continues prompts, without a trace in any random state or in the model."""

    def check(self, prompts: Sequence[str], max_new_tokens: int) -> None:
        """Raise UserError for a prompt that the context does not hold."""

    def __call__(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        temperature: float,
        top_p: float | None,
        seed: int,
        weights: Mapping[str, Tensor] | None = None,
    ) -> list[str]:
        """A continuation of each, prompt i drawn with seed + i; by other, whole `weights` where they are given."""
        ...


class ValidationData(Protocol):
    """A fixed set of sequences, in order, and the bytes of text a token stands for, where that is known."""

    @property
    def bytes_per_token(self) -> float | None: ...

    def evaluation_batches(self, batch_size: int, max_batches: int | None = None) -> Iterator[Batch]: ...
