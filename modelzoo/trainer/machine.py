"""What a run is made on."""

import math
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelzoo.trainer.trainer import Trainer

MACHINE = "machine.json"
"""In a run's folder: of the process that trained last."""


def machine(trainer: "Trainer") -> dict[str, Any]:
    """What a run's numbers depend on, and its speed above all."""
    import torch

    device = trainer.accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "ranks": math.prod(trainer.parallel.sizes),
        "precision": trainer.accelerator.precision,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """As the system calls it; Linux keeps the name in a file."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8", errors="replace").splitlines() if listed.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
