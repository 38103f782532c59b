"""What a run imports before its first update: a start counts in seconds."""

import subprocess
import sys
from pathlib import Path

SLOW = ("sympy", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor")
PROGRAM = f"""
import sys
from benchmarks.training_case import Case, batches
from benchmarks.training_ours import build
case = Case("gptj", "tiny", "fp32")
step = build("ours", case, batches(case), None)
step(0), step(1)
print([name for name in {SLOW} if name in sys.modules])
"""


def test_an_update_on_one_device_imports_neither_compiler_nor_ranks() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
