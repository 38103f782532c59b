"""One arm of a study as the trainer has it, with random tokens for data: what is timed."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelzoo.launch import build_model
from modelzoo.model.generate import generate
from modelzoo.model.gpt import GPT
from modelzoo.model.parameters import depth_of
from modelzoo.run_config import RunConfig
from modelzoo.text_samples import TextSampler
from modelzoo.trainer.accelerator import choose_accelerator
from modelzoo.trainer.parallel import Parallel
from modelzoo.trainer.protocols import Batch
from modelzoo.trainer.trainer import Trainer
from modelzoo.trainer.utilization import Utilization


class TimedArm:
    """A run's model, optimizer and trainer on one device; a process may hold several."""

    def __init__(
        self,
        config: RunConfig,
        batches: Sequence[Batch] | None = None,
        lr_factor: Callable[[int], float] = lambda step: 0.0,
    ) -> None:
        """`batches`, again and again, in place of a random one; `lr_factor` in place of a rate of 0, which leaves the
        weights alone.

        Raises UserError where there is no such device."""
        alone = config.accelerator.model_copy(update={"replicate": 1, "shard": 1, "tensor": 1})
        config = config.model_copy(update={"accelerator": alone})
        accelerator = choose_accelerator(alone)
        parallel = Parallel(alone, accelerator.device)
        torch.manual_seed(config.seed)
        model = build_model(config, accelerator, parallel)
        depths = {name: depth_of(name, config.model.num_layers) for name, _ in model.named_parameters()}
        groups = config.optimizer.groups(model.named_parameters(), model.lr_multipliers(), depths)
        self.trainer = Trainer(
            config=config.trainer.model_copy(update={"max_steps": 1}),
            model=model,
            optimizer=config.optimizer.build(groups, fused=accelerator.fused_optimizer),
            lr_factor=lr_factor,
            data=RepeatedBatches(batches or [random_batch(config)]),
            validation={},
            generator=TextSampler(model, "", accelerator),
            accelerator=accelerator,
            parallel=parallel,
            callbacks={},
            run_dir=Path(),
            tokens_per_step=config.tokens_per_step,
            documents={},
            utilization=Utilization(0, 0, None),
        )
        self._config, self._model = config, model

    @cached_property
    def _generator(self) -> GPT:
        """With halved weights where the precision is bf16, as `modelzoo generate --precision bf16` has them."""
        accelerator = self.trainer.accelerator
        if accelerator.precision != "bf16":
            return self._model
        return GPT(self._config.model, self._config.seed).to(accelerator.device, torch.bfloat16)

    def update(self) -> float:
        """Seconds of one update: forward and backward pass of all micro-batches, and the optimizer's step."""
        self.trainer.accelerator.synchronize()
        started = time.perf_counter()
        self.trainer.update()
        self.trainer.accelerator.synchronize()
        seconds = time.perf_counter() - started
        self.trainer.clock.step_done(self.trainer.tokens_per_step)  # it reads the device's marks, and drops them
        return seconds

    def generate(self, prompt: Sequence[int], new_tokens: int) -> float:
        """Seconds of `new_tokens` after the prompt, greedily, in one row."""
        self.trainer.accelerator.synchronize()
        started = time.perf_counter()
        generate(self._generator, [prompt], new_tokens)
        self.trainer.accelerator.synchronize()
        return time.perf_counter() - started


class RepeatedBatches:
    """A few batches one after the other, again and again, as the trainer reads data."""

    notes: Sequence[str] = ()

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def batch(self, step: int) -> Batch:
        return self._batches[step % len(self._batches)]

    def state(self, step: int) -> dict[str, Any]:
        return {}

    def summary(self, num_steps: int) -> Sequence[str]:
        return ()

    def seen(self, step: int, left_out: Iterable[tuple[int, int]] = ()) -> Mapping[str, float]:
        return {}


def random_batch(config: RunConfig) -> Batch:
    """A batch of the run's shape: every token is as likely as any other."""
    rows, seq_len = config.trainer.global_batch_size, config.data.seq_len
    tokens = np.random.default_rng(config.seed).integers(0, config.model.vocab_size, (rows, seq_len + 1))
    batch = {
        "input_ids": tokens[:, :-1],
        "labels": tokens[:, 1:],
        "loss_mask": np.ones((rows, seq_len), dtype=np.bool_),
    }
    if config.data.isolate_documents:  # two in each row: what the mask costs does not depend on their number
        first = np.arange(seq_len) < seq_len // 2
        positions = np.where(first, np.arange(seq_len), np.arange(seq_len) - seq_len // 2)
        for name, row in (("position_ids", positions), ("segment_ids", 2 - first)):
            batch[name] = np.broadcast_to(row, (rows, seq_len)).astype(np.int32)
    return batch
