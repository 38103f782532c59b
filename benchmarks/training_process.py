"""A process that holds arms of `benchmarks.training`, and makes a step of them when it is asked to."""

import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from benchmarks.training_figures import GEMM
from modelzoo.compare.other_processes import OtherProcesses

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.training_case import Case, Step
    from modelzoo.trainer.protocols import Batch

GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the product that says what a device can do; one size for all processes of a table."""


def serve(pipe: Connection, case: "Case", names: Sequence[str], keep: bool, equal: bool, options: Mapping[str, Any]):
    """Answer each (i, names) from the pipe with the i-th step of these arms: {arm: (seconds, share of others, loss)},
    or why there is no such arm.

    `equal` gives all arms the same weights; else each draws its own, and starts without the others' programs.
    """
    import torch

    from benchmarks.training_case import Step, batches
    from modelzoo.allocator import keep_freed_memory
    from modelzoo.trainer.accelerator import Accelerator

    warnings.filterwarnings("ignore")
    sys.stdout = sys.stderr  # nanoGPT prints the number of its parameters
    if keep:
        keep_freed_memory()
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    on_gpu = case.device == "cuda"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    clock = time.process_time if options["cpu_time"] else time.perf_counter
    data, weights, gemm_flops = batches(case), None, 0
    if equal:
        from benchmarks.training_ours import weights_of

        weights = weights_of(case)
    steps, absent = dict[str, Step](), dict[str, str]()
    for name in names:
        try:
            steps[name] = build(name, case, data, weights)
        except ImportError as error:  # of a peer without something that it needs
            absent[name] = f"absent: {error}"
    del weights
    if equal:
        steps[GEMM], gemm_flops = _gemm(case)
    watch = OtherProcesses()

    def measured(name: str, index: int) -> tuple[float, float, float]:
        wait()
        watch.start()
        started = clock()
        loss = steps[name](index)
        wait()
        return clock() - started, watch.share() or 0.0, loss

    accelerator = Accelerator(torch.device(case.device), case.precision, compile=False, fused_optimizer=True)
    machine = {"threads": torch.get_num_threads(), "peak_flops": accelerator.peak_flops, "gemm_flops": gemm_flops}
    while (asked := pipe.recv()) is not None:
        index, wanted = asked
        try:
            answer: Any = {name: absent.get(name) or measured(name, index) for name in wanted}
        except torch.OutOfMemoryError:
            answer = "out of memory"
        pipe.send((answer, accelerator.peak_memory_bytes(), machine))


def build(name: str, case: "Case", data: "Sequence[Batch]", weights: "Mapping[str, Tensor] | None") -> "Step":
    """An arm. One of a peer's imports next to nothing of ours: how long it takes to start counts."""
    if name in case.ours:
        from benchmarks import training_ours

        return training_ours.build(name, case, data, weights)
    from benchmarks import training_peers

    return training_peers.build(name, case, data, weights)


def _gemm(case: "Case") -> tuple[Callable[[int], float], int]:
    """A product: what the machine can do in these minutes. And its FLOPs."""
    import torch

    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
    size = GEMM_SIZE[case.device]
    a, b = (torch.randn(size, size, device=case.device).to(dtype) for _ in range(2))

    def product(index: int) -> float:
        torch.mm(a, b)
        return 0.0

    return product, 2 * size**3


class Process:
    """One that holds arms, from here."""

    def __init__(self, *arguments: Any) -> None:
        context = get_context("spawn")
        self.started = time.perf_counter()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.peak: int | None = None
        self.machine: dict[str, Any] = {}

    def step(self, index: int, names: Sequence[str]) -> Any:
        """What each of these arms took and found, or why there is nothing."""
        try:
            self._pipe.send((index, names))
            found, self.peak, self.machine = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            return f"ended with exit code {self._process.exitcode}"
        return found

    def close(self) -> None:
        with suppress(ConnectionError):
            self._pipe.send(None)
        self._process.join()
