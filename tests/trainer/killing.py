"""Runs in processes of their own that are killed at random moments, and what they must have left."""

import hashlib
import multiprocessing
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch._dynamo  # noqa: F401 (a run imports it late: here, once for all that are forked)
from torch import Tensor

from modelzoo.launch import build_run
from modelzoo.run_config import load_run_config
from modelzoo.trainer.callbacks.base import Callback
from modelzoo.trainer.checkpoint import checkpoints_of, latest_checkpoint, read_tensors, step_of
from modelzoo.trainer.run_state import optimizer_tensors

PATIENCE_SECONDS = 60.0


def digest(model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> str:
    """Of every bit of the weights and of the optimizer's state."""
    found = hashlib.sha256()
    for group in (model, optimizer):
        for name in sorted(group):
            found.update(name.encode() + group[name].detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def digest_of(folder: Path) -> str:
    return digest(read_tensors(folder, "model"), read_tensors(folder, "optimizer"))


def uninterrupted(overrides: list[str]) -> dict[int, str]:
    """The digest after each step of a run that nothing happens to."""
    digests = {}

    class Record(Callback):
        def on_step_end(self, trainer):
            digests[trainer.step] = digest(trainer.model.state_dict(), dict(optimizer_tensors(trainer.optimizer)))

    trainer = build_run(load_run_config("gptj_tiny", [*overrides, "~callbacks.checkpoint", "~callbacks.evaluate"]))
    trainer.callbacks = {"record": Record()}
    trainer.run_dir.mkdir(parents=True)
    trainer.train()
    return digests


class Ranks:
    """The processes of one run, forked from one that has imported everything."""

    def __init__(
        self, overrides: list[str], num_ranks: int, target: Callable[..., None] | None = None, arguments: tuple = ()
    ) -> None:
        """`target` is called with the overrides and further `arguments`; by default it trains."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["modelzoo.cli.main", "tests.trainer.killing"])
        environment = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        self.processes = [
            context.Process(
                target=_rank,
                args=(
                    {**environment, "RANK": str(rank)} if num_ranks > 1 else {},
                    target or _train,
                    (overrides, *arguments),
                ),
            )
            for rank in range(num_ranks)
        ]
        for process in self.processes:
            process.start()

    def kill(self, ranks: list[int]) -> None:
        """SIGKILL to some of them; the others have to end by themselves, once they have found each other."""
        for rank in ranks:
            self.processes[rank].kill()
        self.join()

    @property
    def are_at_work(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def join(self, patience_seconds: float = PATIENCE_SECONDS) -> list[int]:
        for process in self.processes:
            process.join(patience_seconds)
            assert process.exitcode is not None, "a rank waits for ever"
        return [process.exitcode for process in self.processes]


def _rank(environment: dict[str, str], target: Callable[..., None], arguments: tuple) -> None:
    os.environ.update(environment)
    target(*arguments)


def _train(overrides: list[str]) -> None:
    from modelzoo.cli.train import run

    sys.exit(0 if run("gptj_tiny", overrides) is not None else 3)


def newest_step(run_dir: Path) -> int:
    return max((step_of(folder.name) for folder in checkpoints_of(run_dir)), default=0)


def kill_at_random(
    overrides: list[str],
    run_dir: Path,
    num_kills: int,
    num_ranks: int,
    seed: int,
    expected: Mapping[int, str],
    told: Callable[[str], None] = lambda line: None,
) -> set[str]:
    """Start the run, kill it while it saves, and so on; after each kill the newest checkpoint is what it must be.

    Returns the kinds of names that kills have left beside whole checkpoints.
    """
    draw = random.Random(seed)
    left = set()
    last_step = 0
    for number in range(num_kills):
        ranks = Ranks(overrides, num_ranks)
        goal, deadline = newest_step(run_dir) + draw.randint(int(num_ranks > 1), 4), time.monotonic() + PATIENCE_SECONDS
        while newest_step(run_dir) < goal and time.monotonic() < deadline:
            time.sleep(0.001)
        if draw.random() < 0.5:  # anywhere in a step and its save
            time.sleep(draw.uniform(0, 0.08 * num_ranks**2))
        else:  # in the middle of a write
            while not any((run_dir / "checkpoints").glob(".step_*.partial*")) and ranks.are_at_work:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.02 * num_ranks))
        victims = draw.choice([[rank] for rank in range(num_ranks)] + [list(range(num_ranks))] * num_ranks)
        ranks.kill(victims)
        left |= {
            path.name.partition(".partial")[1] or path.suffix for path in (run_dir / "checkpoints").glob(".step_*")
        }
        folder, warnings = latest_checkpoint(run_dir)
        assert warnings == [], "a kill has left a checkpoint under its name that is none"
        if folder is not None:
            step = step_of(folder.name)
            assert step >= last_step, "a kill has lost a checkpoint that was whole"
            assert digest_of(folder) == expected[step], f"{folder} is not the run's"
            told(f"kill {number + 1}, of {victims}: newest {folder.name}, left {sorted(left)}")
            last_step = step
    assert last_step > 0
    return left


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
