"""The one file that names a backend: device, precision, allocator, random state.

What a backend lacks is looked up in LACKS, downgraded and printed; `strict: true` makes it an error.
"""

import os
import resource
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from modelzoo.allocator import keep_freed_memory
from modelzoo.base_config import UserError
from modelzoo.trainer.config import AcceleratorConfig
from modelzoo.trainer.loss_scale import LossScale
from modelzoo.trainer.step_clock import Mark
from modelzoo.trainer.utilization import peak_flops

LACKS: dict[str, dict[str, str]] = {
    "cpu": {"cpu_offload": "parameters lie in the CPU's memory anyway"},
    "cuda": {},
    "mps": {
        "compile": "inductor's MPS backend is incomplete",
        "fp16": "gradient scaling is untested on MPS",
        "cpu_offload": "the CPU and the GPU share their memory",
    },
    "xpu": {"fp16": "gradient scaling is untested on XPU"},
}
"""Device type -> feature it lacks -> why. Features: the precisions, compile, cpu_offload, fused (optimizer
kernel)."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class Accelerator:
    """A device with what the run may use of it."""

    device: torch.device
    precision: str
    compile: bool
    fused_optimizer: bool
    cpu_offload: bool = False
    notes: list[str] = field(default_factory=list)
    """What was downgraded, and why."""
    chosen: list[str] = field(default_factory=list)
    """What makes it faster, for the line that a run begins with."""

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass: matrix products at `precision`, the rest in fp32."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    def no_autocast(self) -> AbstractContextManager[object]:
        """Within `autocast`: each operation at the precision of what it gets."""
        return nullcontext() if self.precision == "fp32" else torch.autocast(self.device.type, enabled=False)

    @property
    def gathered_dtype(self) -> torch.dtype | None:
        """Of the parameters that ranks gather for the forward pass; None as they are stored."""
        return None if self.precision == "fp32" else DTYPES[self.precision]

    def gradient_scaler(self) -> LossScale:
        """Scales the loss under fp16, whose gradients underflow otherwise; does nothing elsewhere."""
        return LossScale(enabled=self.precision == "fp16")

    def random_state(self) -> dict[str, Tensor]:
        """The generators that dropout draws from, by device type."""
        state = {"cpu": torch.get_rng_state()}
        if self.device.type != "cpu":
            state[self.device.type] = torch.get_device_module(self.device).get_rng_state()
        return state

    def set_random_state(self, state: dict[str, Tensor]) -> None:
        """Restores `random_state`; a state saved on another device leaves this device's seed alone."""
        torch.set_rng_state(state["cpu"])
        if self.device.type in state and self.device.type != "cpu":
            torch.get_device_module(self.device).set_rng_state(state[self.device.type])

    @property
    def runs_beside(self) -> bool:
        """Whether the device works through a queue while the program goes on."""
        return self.device.type != "cpu"

    def synchronize(self) -> None:
        """Waits for the device's queue, so that a clock reads finished work."""
        if self.runs_beside:
            torch.accelerator.synchronize()

    def mark(self) -> Mark | None:
        """A point in the device's queue that knows its time; None on the CPU, which has no queue."""
        if not self.runs_beside:
            return None
        return torch.get_device_module(self.device).Event(enable_timing=True)

    @property
    def peak_flops(self) -> float | None:
        """FLOPs a second that the device can do at best at this precision; None where that is unknown."""
        name, precision = self.device.type, self.precision
        if self.device.type in ("cuda", "xpu"):
            properties = torch.get_device_module(self.device).get_device_properties(self.device)
            name = properties.name
            if self.device.type == "xpu":
                name += f", {properties.gpu_eu_count} engines"
            if precision == "fp32" and torch.get_float32_matmul_precision() != "highest":
                precision = "tf32"
        return peak_flops(name, precision)

    def peak_memory_bytes(self) -> int | None:
        """Most memory in use at once so far: of tensors on the device, on the CPU of the whole process.

        None where the device does not count it.
        """
        if self.device.type == "cpu":
            return _peak_resident_bytes()
        if self.device.type in ("cuda", "xpu"):
            return int(torch.accelerator.max_memory_allocated())
        return None

    def record_allocations(self) -> bool:
        """Begin to write down every allocation, with its place in the program. False where the device cannot."""
        if self.device.type != "cuda":
            return False
        torch.cuda.memory._record_memory_history()
        return True

    def write_allocations(self, path: Path) -> None:
        """What `record_allocations` has written down, for https://pytorch.org/memory_viz; it ends there."""
        torch.cuda.memory._dump_snapshot(str(path))
        torch.cuda.memory._record_memory_history(enabled=None)


def choose_accelerator(config: AcceleratorConfig) -> Accelerator:
    """The device of this machine that the config asks for. UserError where there is none such."""
    device = _device(config.device)
    if device.type != "cpu" and "LOCAL_RANK" in os.environ:  # one device a rank
        device = torch.device(device.type, int(os.environ["LOCAL_RANK"]))
        torch.accelerator.set_device_index(device.index)
    lacks = dict(LACKS[device.type])
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        lacks["bf16"] = "this GPU is older than Ampere"
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        lacks["compile"] = "no C++ compiler is installed"
    notes = []

    def has(feature: str, wanted: bool, instead: str) -> bool:
        if not wanted or feature not in lacks:
            return wanted
        if config.strict:
            raise UserError(
                f"accelerator: {feature} is not to be had on {device.type} ({lacks[feature]}); "
                "choose another, or accelerator.strict=false for a printed downgrade"
            )
        notes.append(f"{feature} is not to be had on {device.type} ({lacks[feature]}): {instead}")
        return False

    precision = config.precision if has(config.precision, True, "fp32 instead") else "fp32"
    compiled = has("compile", config.compile, "not compiled")
    fused = "fused" not in lacks
    offload = has("cpu_offload", config.cpu_offload, "nothing is moved")
    return Accelerator(device, precision, compiled, fused, offload, notes=notes)


def _device(wanted: str) -> torch.device:
    found = torch.accelerator.current_accelerator(check_available=True)
    available = ["cpu"] + ([found.type] if found is not None else [])
    if wanted == "auto":
        return torch.device(available[-1] if available[-1] in LACKS else "cpu")
    if wanted not in available:
        raise UserError(
            f"accelerator.device={wanted}: torch {torch.__version__} finds no such device here; there is: "
            f"{', '.join(available)}. Use accelerator.device=auto, or install a torch build for {wanted}"
        )
    return torch.device(wanted)


def _peak_resident_bytes() -> int:
    try:  # getrusage would count the program that started this one too
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def compile_cache() -> str:
    """The folder in which torch keeps what it has compiled, for the next process; TORCHINDUCTOR_CACHE_DIR names
    another."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # only where something is compiled: a slow import

    return str(cache_dir())


def keep_memory_of(config: AcceleratorConfig) -> str:
    """`keep_freed_memory` where the config wants it and computes on the CPU; what came of it, in words."""
    if _device(config.device).type != "cpu" or not config.keep_freed_memory:
        return ""
    return "keeps freed memory" if keep_freed_memory() else ""
