"""Run directories as a run leaves them, with numbers made up for a test."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

SEQ_LEN, ROWS, STEPS = 512, 32, 400
BYTES_PER_TOKEN = 4.0
CONFIG: dict[str, Any] = {
    "name": "prose_to_newswire",
    "description": "a small GPT-J, continued on newswire",
    "continue_from": "runs/gptj_prose",
    "seed": 1,
    "model": {"num_layers": 6, "hidden_size": 256, "vocab_size": 50257},
    "data": {
        "train": {
            "sources": {
                "newswire": {"path": "data/newswire", "split": "train", "weight": 0.95},
                "prose": {"path": "data/prose", "split": "train", "weight": 0.05},
            }
        },
        "validation": {
            "sources": {
                "prose": {"path": "data/prose/", "split": "validation"},
                "code": {"path": "data/code", "split": "validation"},
                "newswire": {"path": "data/newswire", "split": "validation"},
            }
        },
        "seq_len": SEQ_LEN,
    },
    "optimizer": {"kind": "adamw", "lr": 3e-4},
    "schedule": {"kind": "cosine", "warmup_steps": 20},
    "trainer": {"global_batch_size": ROWS, "max_steps": STEPS},
    "callbacks": {"tensorboard": None},
}
ENDS = {"newswire": (1.28, -0.121), "prose": (1.04, 0.0046), "code": (0.97, 0.0007)}
"""Bits per byte at step 0, and the change to the end."""


def evaluations(ends=ENDS, num_blocks: int = 120, seed: int = 0, every: int = 40) -> list[dict[str, Any]]:
    """Lines of evaluations.jsonl: old domains rise while the rate is warmed up, and recover."""
    draw, lines = np.random.default_rng(seed), []
    for name, (start, change) in ends.items():
        tokens = draw.integers(900, 1025, num_blocks)
        hard = start * math.log(2) * BYTES_PER_TOKEN * (1 + 0.15 * draw.standard_normal(num_blocks))
        own = 0.012 * draw.standard_normal(num_blocks)
        for step in range(0, STEPS + 1, every):
            part = step / STEPS
            bump = 0.02 * math.exp(-(((part - 0.12) / 0.1) ** 2)) * (change > 0) * (step > 0)
            moved = change * (1 - math.exp(-4 * part)) / (1 - math.exp(-4)) + bump + own * math.sqrt(part)
            sums = hard * (1 + moved) * tokens
            lines.append(
                {"step": step, "set": name, "bytes_per_token": BYTES_PER_TOKEN,
                 "loss_sums": sums.tolist(), "num_tokens": tokens.tolist()}
            )  # fmt: skip
    return lines


def metrics() -> list[dict[str, Any]]:
    """Records of the training."""
    draw, records = np.random.default_rng(1), []
    for step in range(1, STEPS + 1):
        tokens = step * ROWS * SEQ_LEN
        lr = 3e-4 * min(step / 20, 0.1 + 0.45 * (1 + math.cos(math.pi * step / STEPS)))
        loss = 3.1 + 0.5 * math.exp(-step / 80) + 0.03 * draw.standard_normal()
        speed = 41_000 + 900 * draw.standard_normal()
        records.append(
            {"step": step, "tokens": tokens, "loss": loss, "lr": lr, "gradient_norm": 0.6 + 0.1 * draw.random(),
             "tokens_per_second": speed}
        )  # fmt: skip
    seen = {"newswire": round(0.95 * tokens), "prose": round(0.05 * tokens)}
    records.append({"step": STEPS, "tokens": tokens} | {f"tokens_seen/{name}": value for name, value in seen.items()}
                   | {"epochs/newswire": 1.31, "epochs/prose": 0.02})  # fmt: skip
    return records


SAMPLES = [
    {"step": 0, "prompt": "Shares of the bank", "seed": 0,
     "text": " were green in the morning, said the old man, and he walked down to the river with his dog, where the "
     "boats lay side by side."},
    {"step": STEPS, "prompt": "Shares of the bank", "seed": 0,
     "text": " fell 2.3 percent in early trading on Tuesday after it said third-quarter profit would miss its own "
     "forecast, citing higher provisions.\n\nAnalysts had expected"},
    {"step": 0, "prompt": "Once upon a time", "seed": 1, "text": " there was a house at the end of the lane."},
    {"step": STEPS, "prompt": "Once upon a time", "seed": 1, "text": " there was a house near the sea, and in it a"},
]  # fmt: skip
MACHINE = {"device": "cpu", "name": "a processor of 2 cores", "precision": "fp32", "ranks": 1, "torch": "2.13.0"}


def write_run(folder: Path, **contents: Any) -> Path:
    """A run's directory; a keyword replaces what a file of it holds, None leaves the file out."""
    parts = {
        "config": CONFIG, "metrics": metrics(), "evaluations": evaluations(), "samples": SAMPLES, "machine": MACHINE,
    } | contents  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in parts.items():
        if content is not None and name == "config":
            (folder / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        elif content is not None and name == "machine":
            (folder / "machine.json").write_text(json.dumps(content), encoding="utf-8")
        elif content is not None:
            lines = "".join(json.dumps(line) + "\n" for line in content)
            (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder
