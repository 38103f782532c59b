"""The training loop: any device, one rank or many, exact accumulation, exact resume.

The model, the data and the optimizer arrive as objects; the Protocols below say all that is asked of them.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from modelzoo.base_config import UserError
from modelzoo.trainer.accelerator import Accelerator
from modelzoo.trainer.callbacks.base import Callback
from modelzoo.trainer.checkpoint import read_state, read_tensors, step_folder, write_checkpoint
from modelzoo.trainer.config import TrainerConfig
from modelzoo.trainer.parallel import Parallel, part_of

Batch = Mapping[str, "np.ndarray[Any, Any]"]
"""`input_ids`, `labels` (B, T) integers and `loss_mask` (B, T) booleans; where documents are isolated also
`position_ids` and `segment_ids` (B, T) integers."""


class LanguageModel(Protocol):
    """The loss as (sum of nats over the unmasked positions, their number), so that parts add up exactly."""

    def loss(
        self,
        input_ids: Tensor,
        labels: Tensor,
        loss_mask: Tensor,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]: ...


class TrainingData(Protocol):
    """Batches as a pure function of the step: any step is reached at once, also after a restart."""

    @property
    def notes(self) -> Sequence[str]: ...

    def batch(self, step: int) -> Batch: ...

    def state(self, step: int) -> dict[str, Any]: ...


class ValidationData(Protocol):
    """A fixed set of sequences, in order, and the bytes of text a token stands for, where that is known."""

    @property
    def bytes_per_token(self) -> float | None: ...

    def evaluation_batches(self, batch_size: int, max_batches: int | None = None) -> Iterator[Batch]: ...


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
        callbacks: Sequence[Callback],
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
        self.callbacks = list(callbacks)
        self.run_dir = run_dir
        self.tokens_per_step = tokens_per_step
        self.documents = dict(documents)
        self.total_steps = config.total_steps(tokens_per_step)
        self.scaler = accelerator.gradient_scaler()
        self.step = 0
        self.stop_signal: int | None = None
        self.evaluation_due = False
        """A stop came while this step was to be evaluated; a resumed run evaluates it first."""
        self._since_record = {"loss_sum": 0.0, "num_tokens": 0}
        self._clock = {"seconds": 0.0, "steps": 0}
        self._speed = {"seconds": 0.0, "tokens": 0}

    # ------------------------------------------------------------------ the loop

    def train(self) -> bool:
        """Run to the end. False where SIGINT, SIGTERM or SIGUSR1 stopped the run after a whole step."""
        self.model.train()
        try:
            with self._stop_on_signals():
                self._call("on_train_start")
                if self.evaluation_due:
                    self._call("on_step_end")  # again, for the evaluation that a stop cut short
                while self.step < self.total_steps and not self._stop_came():
                    self._timed_step()
                    self._call("on_step_end")
                self._call("on_train_end")
        finally:
            for callback in self.callbacks:
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
            part = self._on_device(batch, slice(start, stop))
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
        self._since_record["loss_sum"] += loss_sum
        self._since_record["num_tokens"] += num_tokens
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
        loss = self._since_record["loss_sum"] / max(1, self._since_record["num_tokens"])
        self._since_record = {"loss_sum": 0.0, "num_tokens": 0}
        tokens, seconds = self._clock["steps"] * self.tokens_per_step, self._clock["seconds"]
        self._speed = {"seconds": self._speed["seconds"] + seconds, "tokens": self._speed["tokens"] + tokens}
        self._clock = {"seconds": 0.0, "steps": 0}
        self.publish(loss=loss, **numbers, tokens_per_second=tokens / seconds)

    @property
    def tokens_per_second(self) -> float:
        """Of all updates of this process; evaluation and saving do not count."""
        return self._speed["tokens"] / self._speed["seconds"] if self._speed["seconds"] else math.nan

    # ------------------------------------------------------------------ checkpoints

    def save_checkpoint(self) -> Path:
        """Save all that a resumed run needs to go on bit for bit. Returns the checkpoint's folder."""
        state = {
            "step": self.step,
            "tokens": self.step * self.tokens_per_step,
            "loader": self.data.state(self.step),
            "scaler": self.scaler.state_dict(),
            "since_record": self._since_record,
            "evaluation_due": self.evaluation_due,
            "torch_version": torch.__version__,
        }
        folder = step_folder(self.run_dir, self.step)
        tensors = {
            "model": self.parallel.whole(iter(self.model.state_dict().items())),
            "optimizer": self.parallel.whole(self._optimizer_tensors()),
            "random": self.parallel.of_each_rank(self.accelerator.random_state()),
        }
        texts = {"state.json": json.dumps(state, indent=1) + "\n", **self.documents}
        if self.parallel.is_main:
            write_checkpoint(folder, tensors, texts)
        self.parallel.barrier()
        return folder

    def load_checkpoint(self, folder: Path) -> None:
        """Continue from a checkpoint of this run. UserError where it holds other data or another model."""
        state = read_state(folder)
        expected = self.data.state(state["step"])
        if state["loader"] != expected:
            changed = [
                f"{k}: {state['loader'].get(k)} → {v}" for k, v in expected.items() if state["loader"].get(k) != v
            ]
            raise UserError(
                f"{folder}: the training data or its order has changed since this checkpoint ({'; '.join(changed)}); "
                "restore it, or start a run of another name"
            )
        self.parallel.load(self.model, read_tensors(folder, "model"), folder)
        self._load_optimizer_tensors(read_tensors(folder, "optimizer"))
        if (random_state := self.parallel.of_this_rank(read_tensors(folder, "random"))) is not None:
            self.accelerator.set_random_state(random_state)
        self.scaler.load_state_dict(state["scaler"])
        self._since_record = state["since_record"]
        self.evaluation_due = state["evaluation_due"]
        self.step = int(state["step"])

    def _optimizer_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Optimizer state by parameter name: `<state>/<parameter>`, e.g. `exp_avg/lm_head.weight`."""
        for name, parameter in self._named_optimized():
            for key, value in self.optimizer.state[parameter].items():
                yield f"{key}/{name}", value

    def _load_optimizer_tensors(self, tensors: dict[str, Tensor]) -> None:
        parameters = dict(self._named_optimized())
        for label, value in tensors.items():
            key, name = label.split("/", 1)
            whole = key == "step"
            self.optimizer.state[parameters[name]][key] = value if whole else part_of(value, parameters[name])

    def _named_optimized(self) -> Iterator[tuple[str, nn.Parameter]]:
        for group in self.optimizer.param_groups:
            yield from zip(group["names"], group["params"], strict=True)

    # ------------------------------------------------------------------ plumbing

    def _stop_came(self) -> bool:
        """Whether a signal has come to any of the ranks: all find out at the same place."""
        self.stop_signal = self.parallel.any(self.stop_signal or 0) or None
        return self.stop_signal is not None

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, hook)(self, *arguments)

    def _on_device(self, batch: Batch, rows: slice) -> dict[str, Tensor]:
        return batch_to_device(batch, self.accelerator.device, rows)

    @contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """The first signal ends the run after the step; a second one of SIGINT interrupts at once."""

        def request_stop(number: int, _frame: object) -> None:
            self.stop_signal = number
            signal.signal(signal.SIGINT, signal.default_int_handler)

        names = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        try:
            before = {number: signal.signal(number, request_stop) for number in numbers}
        except ValueError:  # not the main thread: whoever runs us there handles signals
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def batch_to_device(batch: Batch, device: torch.device, rows: slice = slice(None)) -> dict[str, Tensor]:
    """Rows of a numpy batch as tensors on the device."""
    return {key: torch.from_numpy(value[rows]).to(device, non_blocking=True) for key, value in batch.items()}


def share_of(batch: Batch, parallel: Parallel) -> Batch:
    """This rank's rows of a batch of any size; one that counts nothing where there are too few for all ranks."""
    ranks, size = parallel.num_data_ranks, len(batch["input_ids"])
    if ranks == 1:
        return batch
    mine = {key: value[parallel.data_rank :: ranks] for key, value in batch.items()}
    if parallel.data_rank >= size:  # every rank takes part in every forward pass
        mine = {key: value[:1] for key, value in batch.items()}
        mine["loss_mask"] = np.zeros_like(mine["loss_mask"])
    return mine


@torch.no_grad()
def evaluate_loss(
    model: nn.Module,
    batches: Iterator[Batch],
    accelerator: Accelerator,
    stop: Callable[[], bool] = lambda: False,
    on_batch: Callable[[int], None] = lambda tokens: None,
) -> tuple[float, int] | None:
    """Sum of nats over all unmasked tokens, and their number. Leaves the model in evaluation mode.

    None where `stop()` became true; `on_batch` hears how many tokens each batch held.
    """
    model.eval()
    loss_sum, num_tokens = 0.0, 0
    for batch in batches:
        if stop():
            return None
        with accelerator.autocast():
            part_sum, part_tokens = model.loss(**batch_to_device(batch, accelerator.device))  # type: ignore[operator]
        loss_sum += part_sum.item()
        num_tokens += int(part_tokens)
        on_batch(int(part_tokens))
    return loss_sum, num_tokens


def loss_metrics(loss_sum: float, num_tokens: int, bytes_per_token: float | None) -> dict[str, float]:
    """Loss in nats a token, perplexity, and bits per byte of UTF-8 text (independent of the vocabulary).

    No bits per byte where `bytes_per_token` is None: the loss is then that of a part of the text.
    """
    loss = loss_sum / max(1, num_tokens)
    metrics = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
    if bytes_per_token is not None:
        metrics["bits_per_byte"] = loss / math.log(2) / bytes_per_token
    return metrics
