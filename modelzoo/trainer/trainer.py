"""The training loop: any device, one rank or many, exact accumulation, exact resume.

The model, the data and the optimizer arrive as objects; `protocols.py` says all that is asked of them.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelzoo.trainer.accelerator import Accelerator
from modelzoo.trainer.callbacks.base import Callback
from modelzoo.trainer.config import TrainerConfig
from modelzoo.trainer.evaluation import batch_to_device, evaluate_loss, loss_metrics, share_of
from modelzoo.trainer.parallel import Parallel
from modelzoo.trainer.protocols import TrainingData, ValidationData
from modelzoo.trainer.stop_signals import stop_on_signals


class NonFiniteError(RuntimeError):
    """The loss or the gradient is not a number; the weights are those before that update."""


class Trainer:
    """Trains a model to `total_steps`, calling back at every step."""

    def __init__(
        self,
        config: TrainerConfig,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_factor: Callable[[int], float],
        data: TrainingData,
        validation: ValidationData | None,
        accelerator: Accelerator,
        parallel: Parallel,
        callbacks: Mapping[str, Callback],
        run_dir: Path,
        tokens_per_step: int,
        documents: Mapping[str, str],
    ):
        """`lr_factor` maps an update's number to the schedule's factor; `documents` go into each checkpoint."""
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.lr_factor = lr_factor
        self.data = data
        self.validation = validation
        self.accelerator = accelerator
        self.parallel = parallel
        self.callbacks = dict(callbacks)
        self.run_dir = run_dir
        self.tokens_per_step = tokens_per_step
        self.documents = dict(documents)
        self.total_steps = config.total_steps(tokens_per_step)
        self.scaler = accelerator.gradient_scaler()
        self.step = 0
        self.stop_signal: int | None = None
        self.evaluation_due = False
        """A stop came while this step was to be evaluated; a resumed run evaluates it first."""
        self.since_record = {"loss_sum": 0.0, "num_tokens": 0}
        self._clock = {"seconds": 0.0, "steps": 0}
        self._speed = {"seconds": 0.0, "tokens": 0}

    # ------------------------------------------------------------------ the loop

    def train(self) -> bool:
        """Run to the end. False where SIGINT, SIGTERM or SIGUSR1 stopped the run after a whole step."""
        self.model.train()
        try:
            with stop_on_signals(self._request_stop):
                self._call("on_train_start")
                if self.evaluation_due:
                    self._call("on_step_end")  # again, for the evaluation that a stop cut short
                while self.step < self.total_steps and not self._stop_came():
                    self._timed_step()
                    self._call("on_step_end")
                self._call("on_train_end")
        finally:
            for callback in self.callbacks.values():
                callback.close()
        return self.stop_signal is None

    def _timed_step(self) -> None:
        """An update, and its record where one is due; the clock leaves callbacks out."""
        started = time.perf_counter()
        numbers = self.update()
        self.step += 1
        publish = self.step % self.config.log_every_steps == 0 or self.step == self.total_steps
        if publish:
            self.accelerator.synchronize()
        self._clock["seconds"] += time.perf_counter() - started
        self._clock["steps"] += 1
        if publish:
            self._publish_step(numbers)

    def update(self) -> dict[str, float]:
        """One optimizer update on batch `step`; returns its learning rate and gradient norm.

        The gradient is that of the mean over every unmasked token of the global batch, however the batch is
        cut into micro-batches. Raises NonFiniteError before a bad gradient could reach the weights.
        """
        batch = self.data.batch(self.step)
        num_tokens = max(1, int(batch["loss_mask"].sum()))  # of all ranks: each sees the whole batch
        rows = self.parallel.rows(len(batch["input_ids"]))
        micro_batch_size = self.config.micro_batch_size or rows.stop - rows.start
        loss_sum = torch.zeros((), device=self.accelerator.device)
        for start in range(rows.start, rows.stop, micro_batch_size):
            stop = min(start + micro_batch_size, rows.stop)
            self.parallel.last_micro_batch(self.model, stop == rows.stop)
            part = batch_to_device(batch, self.accelerator.device, slice(start, stop))
            with self.accelerator.autocast():
                part_sum, _ = self.model.loss(**part)  # type: ignore[operator]
            self.scaler.scale(part_sum / num_tokens).backward()
            loss_sum += part_sum.detach()
        (total,) = self.parallel.sum_over_data([loss_sum.item()])
        return self._apply_gradients(total, num_tokens)

    def _apply_gradients(self, loss_sum: float, num_tokens: int) -> dict[str, float]:
        self.scaler.unscale_(self.optimizer)
        clip = self.config.gradient_clip_norm
        norm = self.parallel.clip_gradients(self.model.parameters(), math.inf if clip is None else clip)
        overflow = self.scaler.is_enabled() and math.isfinite(loss_sum)  # the scaler skips it, and shrinks
        if not (math.isfinite(norm) or overflow) or not math.isfinite(loss_sum):
            raise NonFiniteError(
                f"step {self.step + 1}: loss {loss_sum / num_tokens:.4g}, gradient norm {norm:.4g}; the update "
                "was not applied. Lower optimizer.lr, lengthen the warm-up, or use precision fp32 or bf16"
            )
        factor = self.lr_factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.since_record["loss_sum"] += loss_sum
        self.since_record["num_tokens"] += num_tokens
        lr = max(group["peak_lr"] for group in self.optimizer.param_groups) * factor
        numbers = {"lr": lr, "gradient_norm": norm}
        if self.scaler.is_enabled():
            numbers["loss_scale"] = self.scaler.get_scale()
        return numbers

    def evaluate(self, batch_size: int, max_batches: int | None = None) -> dict[str, float] | None:
        """Loss (nats a token), perplexity and bits per byte on the validation data; None if a stop came."""
        assert self.validation is not None
        batches = self.validation.evaluation_batches(batch_size, max_batches)
        mine = (share_of(batch, self.parallel) for batch in batches)
        total = evaluate_loss(self.model, mine, self.accelerator, stop=self._stop_came)
        self.model.train()
        if total is None:
            return None
        loss_sum, num_tokens = self.parallel.sum_over_data(total)
        return loss_metrics(loss_sum, round(num_tokens), self.validation.bytes_per_token)

    # ------------------------------------------------------------------ numbers

    def publish(self, **numbers: float) -> None:
        """Hand a record of numbers to every callback."""
        record = {"step": self.step, "tokens": self.step * self.tokens_per_step, **numbers}
        self._call("on_record", record)

    def _publish_step(self, numbers: dict[str, float]) -> None:
        loss = self.since_record["loss_sum"] / max(1, self.since_record["num_tokens"])
        self.since_record = {"loss_sum": 0.0, "num_tokens": 0}
        tokens, seconds = self._clock["steps"] * self.tokens_per_step, self._clock["seconds"]
        self._speed = {"seconds": self._speed["seconds"] + seconds, "tokens": self._speed["tokens"] + tokens}
        self._clock = {"seconds": 0.0, "steps": 0}
        self.publish(loss=loss, **numbers, tokens_per_second=tokens / seconds, **self.data.seen(self.step))

    @property
    def tokens_per_second(self) -> float:
        """Of all updates of this process; evaluation and saving do not count."""
        return self._speed["tokens"] / self._speed["seconds"] if self._speed["seconds"] else math.nan

    # ------------------------------------------------------------------ plumbing

    def _stop_came(self) -> bool:
        """Whether a signal has come to any of the ranks: all find out at the same place."""
        self.stop_signal = self.parallel.any(self.stop_signal or 0) or None
        return self.stop_signal is not None

    def _request_stop(self, number: int) -> None:
        self.stop_signal = number

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks.values():
            getattr(callback, hook)(self, *arguments)
