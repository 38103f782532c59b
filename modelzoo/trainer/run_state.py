"""All that a run needs to go on bit for bit: taken from a trainer into a checkpoint, and brought back."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from modelzoo.base_config import UserError
from modelzoo.trainer.checkpoint import StoredTensors, read_state, read_tensors, step_folder
from modelzoo.trainer.checkpoint_writer import CheckpointWriter
from modelzoo.trainer.parallel import part_of
from modelzoo.trainer.trainer import Trainer


def save(trainer: Trainer, writer: CheckpointWriter, then: Callable[[Path], None]) -> Path:
    """Begin to save a trainer's state as the checkpoint of its step, whose folder is returned. Every rank calls this.

    The writer's thread calls `then` with the folder when it is there.
    """
    state = {
        "step": trainer.step,
        "tokens": trainer.step * trainer.tokens_per_step,
        "loader": trainer.data.state(trainer.guard.batch_number(trainer.step)),
        "guard": trainer.guard.state(),
        "scaler": trainer.scaler.state_dict(),
        "since_record": trainer.since_record,
        "batches": trainer.batches,
        "elapsed_seconds": trainer.clock.elapsed,
        "callbacks": {name: own for name, callback in trainer.callbacks.items() if (own := callback.state())},
        "torch_version": torch.__version__,
    }
    groups: dict[str, Iterable[tuple[str, Tensor]]] = {
        "model": trainer.model.state_dict().items(),
        "optimizer": optimizer_tensors(trainer.optimizer),
    }
    for name, callback in trainer.callbacks.items():
        if own := callback.tensors():
            groups[f"callback_{name}"] = own.items()
    random = trainer.parallel.of_each_rank(trainer.accelerator.random_state())
    texts = {"state.json": json.dumps(state, indent=1) + "\n", **trainer.documents}
    folder = step_folder(trainer.run_dir, trainer.step)
    writer.save(folder, groups, random, texts, then)
    return folder


def restore(trainer: Trainer, folder: Path) -> None:
    """Continue from a checkpoint of this run. UserError where it holds other data or another model."""
    state = read_state(folder)
    trainer.guard.load_state(state.get("guard", {}), state["step"])
    expected = trainer.data.state(trainer.guard.batch_number(state["step"]))
    if state["loader"] != expected:
        changed = [f"{k}: {state['loader'].get(k)} → {v}" for k, v in expected.items() if state["loader"].get(k) != v]
        raise UserError(
            f"{folder}: the training data or its order has changed since this checkpoint ({'; '.join(changed)}); "
            "restore it, or start a run of another name"
        )
    trainer.parallel.load(trainer.model, StoredTensors(folder, "model"), folder)
    load_optimizer_tensors(trainer.optimizer, StoredTensors(folder, "optimizer"))
    if (random_state := trainer.parallel.of_this_rank(read_tensors(folder, "random"))) is not None:
        trainer.accelerator.set_random_state(random_state)
    trainer.scaler.load_state_dict(state["scaler"])
    trainer.since_record = state["since_record"]
    trainer.batches = state.get("batches", trainer.batches)  # absent: saved before there were hashes
    trainer.clock.resume(state.get("elapsed_seconds", 0.0))
    trainer.step = int(state["step"])
    for name, callback in trainer.callbacks.items():
        tensors = StoredTensors(folder, f"callback_{name}")
        if name in state["callbacks"] or tensors:
            callback.load_state(state["callbacks"].get(name, {}), tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Optimizer state by parameter name: `<state>/<parameter>`, e.g. `exp_avg/lm_head.weight`."""
    for name, parameter in _named_optimized(optimizer):
        for key, value in sorted(optimizer.state[parameter].items()):  # as loaded, and as made anew
            yield f"{key}/{name}", value


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Bring back what `optimizer_tensors` gave; each rank keeps its part."""
    parameters = dict(_named_optimized(optimizer))
    for label, value in tensors.items():
        key, name = label.split("/", 1)
        part = value if key == "step" else part_of(value, parameters[name])
        optimizer.state[parameters[name]][key] = part.clone()  # of its own: the value may be the file's


def _named_optimized(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)
