"""The training loop: any device, one rank or many, exact accumulation, exact resume.

The model, the data and the optimizer arrive as objects; `protocols.py` says all that is asked of them.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelzoo.base_config import UserError
from modelzoo.trainer.accelerator import Accelerator
from modelzoo.trainer.bad_updates import BadUpdateError, UpdateGuard
from modelzoo.trainer.batch_hash import batch_sha256, chained_sha256
from modelzoo.trainer.callbacks.base import Callback, Sample
from modelzoo.trainer.config import TrainerConfig
from modelzoo.trainer.evaluation import Evaluation, batch_to_device, evaluate_loss, over_ranks, share_of
from modelzoo.trainer.parallel import Parallel
from modelzoo.trainer.protocols import Batch, TextGenerator, TrainingData, ValidationData
from modelzoo.trainer.recovery import recover
from modelzoo.trainer.step_clock import StepClock
from modelzoo.trainer.stop_signals import stop_on_signals
from modelzoo.trainer.utilization import Utilization


class Trainer:
    """Trains a model to `total_steps`, calling back at every step."""

    def __init__(
        self,
        config: TrainerConfig,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_factor: Callable[[int], float],
        data: TrainingData,
        validation: Mapping[str, ValidationData],
        generator: TextGenerator,
        accelerator: Accelerator,
        parallel: Parallel,
        callbacks: Mapping[str, Callback],
        run_dir: Path,
        tokens_per_step: int,
        documents: Mapping[str, str],
        utilization: Utilization,
    ):
        """`lr_factor` maps an update's number to the schedule's factor; `validation` is by name, and a single one
        has an empty name; `documents` go into each checkpoint."""
        self.config = config
        self.model = model
        self.optimizer = optimizer
        self.lr_factor = lr_factor
        self.data = data
        self.validation = dict(validation)
        self.generator = generator
        self.accelerator = accelerator
        self.parallel = parallel
        self.callbacks = dict(sorted(callbacks.items(), key=lambda item: item[1].turn))
        self.run_dir = run_dir
        self.tokens_per_step = tokens_per_step
        self.documents = dict(documents)
        self.utilization = utilization
        self.total_steps = config.total_steps(tokens_per_step)
        self.scaler = accelerator.gradient_scaler()
        self.guard = UpdateGuard(config.bad_updates, config.skip_batches)
        self.step = 0
        self.stop_signal: int | None = None
        self.since_record = {"loss_sum": 0.0, "num_tokens": 0}
        self.batches = {"batch_sha256": "", "batches_sha256": ""}
        """Of the newest batch that the weights have seen, and of all of them in their order."""
        self.clock = StepClock(accelerator.mark)
        self._ahead = dict[int, Batch]()
        """The next update's batch, by its number, where it has been read already."""
        self._failed: set[str] = set()

    # ------------------------------------------------------------------ the loop

    def train(self) -> bool:
        """Run to the end. False where SIGINT, SIGTERM or SIGUSR1 stopped the run after a whole step."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.model.train()
        self.clock.start()
        try:
            with stop_on_signals(self._request_stop):
                self._call("on_train_start")
                self._call("on_ready")
                while not self.is_complete and not self._stop_came():
                    self._call("on_step_start")
                    if self._timed_step():
                        self._call("on_step_end")
                self._call("on_train_end")
                self.publish(**{name: number for name, number in self._meters().items() if number is not None})
        finally:
            for name, callback in self.callbacks.items():
                self._guarded(name, callback, "close")
        return self.stop_signal is None

    def _timed_step(self) -> bool:
        """An update, and its record where one is due. False where the update was bad, and the run has been brought to
        where it goes on."""
        may_recover = self.config.bad_updates.policy != "stop"
        random_state = self.accelerator.random_state() if may_recover else {}
        try:
            numbers = self.update()
        except BadUpdateError as error:
            if not may_recover:
                raise
            recover(self, error, random_state)
            return False
        self.step += 1
        publish = self.step % self.config.log_every_steps == 0 or self.step == self.total_steps
        if publish:
            with self.clock.part("optimizer"):  # the device may be at it still
                self.accelerator.synchronize()
        self.clock.step_done(self.tokens_per_step)
        if publish:
            self._publish_step(numbers)
        return True

    def update(self) -> dict[str, float]:
        """One optimizer update on the batch of `step`; returns its learning rate and gradient norm.

        The gradient is that of the mean over every unmasked token of the global batch, however the batch is
        cut into micro-batches. Raises BadUpdateError before a bad gradient could reach the weights.
        """
        number = self.guard.batch_number(self.step)
        with self.clock.part("data"):
            batch = self._ahead.pop(number, None) or self.data.batch(number)
            num_tokens = max(1, int(batch["loss_mask"].sum()))  # of all ranks: each sees the whole batch
        rows = self.parallel.rows(len(batch["input_ids"]))
        micro_batch_size = self.config.micro_batch_size or rows.stop - rows.start
        loss_sum = torch.zeros((), device=self.accelerator.device)
        with self.accelerator.autocast():  # one for all: what it narrows of the weights, it keeps to its end
            for start in range(rows.start, rows.stop, micro_batch_size):
                stop = min(start + micro_batch_size, rows.stop)
                self.parallel.last_micro_batch(self.model, stop == rows.stop)
                with self.clock.part("data"):
                    part = batch_to_device(batch, self.accelerator.device, slice(start, stop))
                with self.clock.part("forward"):
                    part_sum, _ = self.model.loss(**part)  # type: ignore[operator]
                with self.clock.part("backward"), self.accelerator.no_autocast():
                    self.scaler.scale(part_sum / num_tokens).backward()
                    loss_sum += part_sum.detach()
        with self.clock.part("backward"):  # which this waits for
            if self.accelerator.runs_beside and self.step + 1 < self.total_steps:
                following = self.guard.batch_number(self.step + 1)
                self._ahead = {following: self.data.batch(following)}
            (total,) = self.parallel.sum_over_data([loss_sum.item()])
        with self.clock.part("optimizer"):
            numbers = self._apply_gradients(total, num_tokens)
        with self.clock.part("data"):
            link = batch_sha256(batch)
            self.batches = {
                "batch_sha256": link,
                "batches_sha256": chained_sha256(self.batches["batches_sha256"], link),
            }
        return numbers

    def _apply_gradients(self, loss_sum: float, num_tokens: int) -> dict[str, float]:
        self.scaler.unscale(self.model.parameters())
        self._call("on_gradients")
        clip = self.config.gradient_clip_norm
        norm = self.parallel.clip_gradients(self.model.parameters(), math.inf if clip is None else clip)
        loss = loss_sum / num_tokens  # these two are of all ranks, so that all decide alike
        overflow = self.scaler.enabled and math.isfinite(loss) and not math.isfinite(norm)
        if not overflow and (reason := self.guard.fault(loss, norm)):
            raise BadUpdateError(self.step, self.guard.batch_number(self.step), reason)
        factor = self.lr_factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        self.scaler.update(overflow)
        if not overflow:
            self.optimizer.step()
            self.guard.accept(loss, norm)
        self.optimizer.zero_grad(set_to_none=True)
        self.since_record["loss_sum"] += loss_sum
        self.since_record["num_tokens"] += num_tokens
        lr = max(group["peak_lr"] for group in self.optimizer.param_groups) * factor
        numbers = {"lr": lr, "gradient_norm": norm} if not overflow else {"lr": lr}
        if self.scaler.enabled:
            numbers |= {"loss_scale": self.scaler.value, "overflows": self.scaler.num_overflows}
        return numbers

    def evaluate(self, of_set: str, batch_size: int, max_batches: int | None = None) -> Evaluation | None:
        """The loss on a validation set; None if a stop came."""
        data, sizes = self.validation[of_set], list[int]()

        def mine() -> Iterator[Batch]:
            for batch in data.evaluation_batches(batch_size, max_batches):
                sizes.append(len(batch["input_ids"]))
                yield share_of(batch, self.parallel)

        found = evaluate_loss(self.model, mine(), self.accelerator, stop=self._stop_came)
        self.model.train()
        self.parallel.forget_gathered(self.model)
        if found is None:
            return None
        return over_ranks(found, sizes, data.bytes_per_token, self.parallel)

    # ------------------------------------------------------------------ numbers

    def publish(self, **numbers: Any) -> None:
        """Hand a record of numbers to every callback."""
        record = {"step": self.step, "tokens": self.step * self.tokens_per_step, **numbers}
        self._call("on_record", record)

    def publish_samples(self, samples: Sequence[Sample]) -> None:
        """Hand texts to every callback."""
        self._call("on_samples", samples)

    def _publish_step(self, numbers: dict[str, float]) -> None:
        loss = self.since_record["loss_sum"] / max(1, self.since_record["num_tokens"])
        self.since_record = {"loss_sum": 0.0, "num_tokens": 0}
        seen = self.data.seen(self.guard.batch_number(self.step), self.guard.skipped)
        self.publish(loss=loss, **numbers, **self._meters(), **seen, **self.batches)

    def _meters(self) -> dict[str, float | None]:
        """Speed, where the time went since the last record, and memory; every rank calls this."""
        self.accelerator.synchronize()
        peak = self.accelerator.peak_memory_bytes()
        numbers = self.clock.record()
        return {
            **self.utilization.of(numbers["tokens_per_second"]),
            **numbers,
            "peak_memory_bytes": None if peak is None else self.parallel.any(peak),
        }

    @property
    def tokens_per_second(self) -> float | None:
        """Of all updates of this process but the first; evaluation and saving do not count."""
        return self.clock.tokens_per_second

    # ------------------------------------------------------------------ plumbing

    @property
    def ended_early(self) -> str | None:
        """Why a callback has ended the run before its last step."""
        if self.step >= self.total_steps:
            return None
        return next((why for callback in self.callbacks.values() if (why := callback.ends_run(self))), None)

    @property
    def is_complete(self) -> bool:
        """No update is left to do."""
        return self.step >= self.total_steps or self.ended_early is not None

    @property
    def evaluation_due(self) -> bool:
        """A stop cut an evaluation of this step short; a resumed run takes it first."""
        return any(callback.due for callback in self.callbacks.values())

    def _stop_came(self) -> bool:
        """Whether a signal has come to any of the ranks: all find out at the same place."""
        if came := self.parallel.any(self.stop_signal or 0):  # a signal that comes meanwhile is for the next time
            self.stop_signal = came
        return bool(came)

    def _request_stop(self, number: int) -> None:
        self.stop_signal = number

    def _call(self, hook: str, *arguments: Any) -> None:
        for name, callback in self.callbacks.items():
            with self.clock.part(callback.clock_part):
                self._guarded(name, callback, hook, self, *arguments)

    def _guarded(self, name: str, callback: Callback, hook: str, *arguments: Any) -> None:
        """Call a callback; one that may fail is left out once it has."""
        if name in self._failed:
            return
        try:
            getattr(callback, hook)(*arguments)
        except UserError:
            raise
        except Exception as error:
            if not callback.may_fail:
                raise
            self._failed.add(name)
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            print(f"note: callbacks.{name} failed, and is left out from here on: {reason}", file=sys.stderr)
