"""Small studies, for tests of the plan and of its execution."""

from pathlib import Path
from typing import Any

from modelzoo.compare.config import CompareConfig
from tests.runs import small_overrides


def small_study(dataset: Path, folder: Path, **changes: Any) -> CompareConfig:
    """GPT-J against GPT-NeoX, two seeds, 12 steps of a model of 40,000 parameters."""
    data = {
        "name": "small",
        "arms": {"gptj": {"config": "gptj_tiny"}, "neox": {"config": "gpt_neox_tiny"}},
        "overrides": [o for o in small_overrides(dataset, folder) if not o.startswith("output_dir=")],
        "output_dir": str(folder / "compare"),
        "seeds": [0, 1],
        "speed": None,
        **changes,
    }
    return CompareConfig.model_validate(data)
