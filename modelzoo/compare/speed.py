"""How fast the arms of a study train and generate: all in one process, in turn, so that what happens to the machine
meanwhile happens to all of them.

A round is one update of each arm and one generation by each, in an order that is drawn anew. Random tokens of the run's
shapes take the place of the data, and the learning rate is 0: an update is the trainer's own, and leaves the weights as
they were drawn.
"""

import json
import random
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from modelzoo.base_config import UserError
from modelzoo.compare.all_reduces import count_all_reduces
from modelzoo.compare.other_processes import BUSY, MOST_ROUNDS, OtherProcesses
from modelzoo.compare.timed_arm import TimedArm
from modelzoo.files import write_text
from modelzoo.run_config import RunConfig
from modelzoo.trainer.accelerator import keep_memory_of
from modelzoo.trainer.machine import machine

SCHEMA = 1
PROMPT_TOKENS = 64
MEMORY_STEPS = 2
"""Updates after which memory has had its peak: the optimizer's state is there in the second."""


def measure_speed(
    arms: Mapping[str, RunConfig],
    folder: Path,
    rounds: int = 20,
    warmup_rounds: int = 3,
    new_tokens: int = 64,
    all_reduces: bool = False,
    peak_memory: bool = True,
    seed: int = 0,
    on_round: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Time the arms on one device and write `speed.json` into `folder`; its content.

    {"schema": 1, "device", "name", "threads", "torch", "precision", "rounds", "rounds_dropped", "quiet",
     "training": {arm: {"step_seconds": [per round], "tokens_per_step", "peak_memory_bytes"}},
     "generation": {arm: {"seconds": [per round], "prompt_tokens", "new_tokens"}}, or null without `new_tokens`,
     "all_reduces": {arm: {"forward": per layer, "backward": per layer}}, or null}

    Index i of all lists is the same round. A round in which other processes used more than BUSY of the CPU is dropped,
    and another taken, up to MOST_ROUNDS * `rounds` in all. Where fewer than half of `rounds` were quiet, all count, and
    "quiet" is false (null where the system does not tell). Peak memory is that of a process that trains this arm alone.
    The allocator is left as it is: a program that wants the trainer's calls `keep_memory_of` before.

    Args:
        arms: by name. Ranks that they ask for are not started: each is timed on one device.
        rounds, warmup_rounds: timings of each arm, and rounds before them, which do not count.
        new_tokens: to generate after a prompt of 64, greedily, in one row; fewer where a context is short. 0: none.
        all_reduces: count them too (`count_all_reduces`).
        on_round: told after each round that counts how many there are, and of how many.

    Raises:
        UserError: an arm trains adapters or keeps its parameters off the device, or there is no such device.
    """
    check_measurable(arms)
    memory = {name: _alone(config) if peak_memory else None for name, config in arms.items()}
    timed = {name: TimedArm(config) for name, config in arms.items()}
    context = min(config.model.max_seq_len for config in arms.values())
    num_prompt = min(PROMPT_TOKENS, context // 2)
    num_new = min(new_tokens, context - num_prompt)
    draw, watch = random.Random(seed), OtherProcesses()

    def one_round() -> dict[str, list[float]]:
        """Seconds of each arm: of an update, and of a generation where one is wanted."""
        found: dict[str, list[float]] = {name: [] for name in arms}
        for name in draw.sample(list(arms), len(arms)):
            found[name].append(timed[name].update())
        for name in draw.sample(list(arms), len(arms) if num_new else 0):
            prompt = [draw.randrange(arms[name].model.vocab_size) for _ in range(num_prompt)]
            found[name].append(timed[name].generate(prompt, num_new))
        return found

    for _ in range(warmup_rounds):
        one_round()
    quiet, noisy = list[dict[str, list[float]]](), list[dict[str, list[float]]]()
    while len(quiet) < rounds and len(quiet) + len(noisy) < MOST_ROUNDS * rounds:
        watch.start()
        found = one_round()
        (noisy if (watch.share() or 0.0) > BUSY else quiet).append(found)
        if on_round is not None:
            on_round(len(quiet), rounds)
    is_quiet = 2 * len(quiet) >= rounds
    kept = quiet if is_quiet else quiet + noisy
    machines = [machine(arm.trainer) for arm in timed.values()]
    speed = {
        "schema": SCHEMA,
        **{key: machines[0][key] for key in ("device", "name", "threads", "torch")},
        "precision": ", ".join(sorted({each["precision"] for each in machines})),
        "rounds": len(kept),
        "rounds_dropped": len(quiet) + len(noisy) - len(kept),
        "quiet": is_quiet if watch.known else None,
        "training": {
            name: {
                "step_seconds": [each[name][0] for each in kept],
                "tokens_per_step": config.tokens_per_step,
                "peak_memory_bytes": memory[name],
            }
            for name, config in arms.items()
        },
        "generation": {
            name: {"seconds": [each[name][1] for each in kept], "prompt_tokens": num_prompt, "new_tokens": num_new}
            for name in arms
        }
        if num_new
        else None,
        "all_reduces": count_all_reduces({n: config.model for n, config in arms.items()}) if all_reduces else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "speed.json", json.dumps(speed, indent=1) + "\n")
    return speed


def check_measurable(arms: Mapping[str, RunConfig]) -> None:
    """Raises UserError where an arm is not one model on one device."""
    for name, config in arms.items():
        if config.lora is not None:
            raise UserError(f"arms.{name}: trains adapters (lora), and so is not timed beside others; use speed: null")
        if config.accelerator.cpu_offload:
            raise UserError(f"arms.{name}: accelerator.cpu_offload=true is not timed beside others; use speed: null")


def _alone(config: RunConfig) -> int | None:
    """Most memory at once of a process that trains this arm, in bytes; None where the device does not tell."""
    with ProcessPoolExecutor(1, get_context("spawn")) as beside:
        return beside.submit(_peak_memory, config.model_dump()).result()


def _peak_memory(config: dict[str, Any]) -> int | None:
    run = RunConfig.model_validate(config)
    keep_memory_of(run.accelerator)  # as `modelzoo train` does
    arm = TimedArm(run)
    for _ in range(MEMORY_STEPS):
        arm.update()
    return arm.trainer.accelerator.peak_memory_bytes()
