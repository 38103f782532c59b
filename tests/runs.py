"""A small dataset and small runs on it, for tests of the trainer and of what stands around it."""

import json
import random
from pathlib import Path
from typing import Any

from data_preprocessing import pipeline
from data_preprocessing.config import PreprocessConfig
from modelzoo.launch import build_run, resume
from modelzoo.run_config import RunConfig, load_run_config
from modelzoo.tokenizer import Tokenizer
from modelzoo.trainer.trainer import Trainer
from tests.samples import small_tokenizer


def write_dataset(folder: Path, num_documents: int = 60, seed: int = 0, tokenizer: Tokenizer | None = None) -> Path:
    """A dataset of a few thousand tokens below `folder`: sentences with a little structure to learn."""
    draw = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    (tokenizer or small_tokenizer()).save(folder / "tokenizer.json")
    words = ["the", "cat", "and", "the", "dog", "saw", "a", "bird", "on", "the", "mat", "while", "it", "sang"]
    documents = [" ".join(draw.choice(words) for _ in range(draw.randint(5, 60))) for _ in range(num_documents)]
    (folder / "corpus.txt").write_text("\n".join(documents) + "\n", encoding="utf-8")
    config = PreprocessConfig.model_validate(
        {
            "name": "small",
            "reader": {"kind": "text", "paths": "corpus.txt", "separator": "\n"},
            "tokenizer": "tokenizer.json",
            "output": "dataset",
            "validation_fraction": 0.2,
        }
    )
    return pipeline.run(config, folder).output


def write_masked_dataset(folder: Path) -> Path:
    """A dataset of prompts and completions below `folder`: the loss is on the completions alone, which differ in
    length."""
    folder.mkdir(parents=True, exist_ok=True)
    small_tokenizer().save(folder / "tokenizer.json")
    lines = [json.dumps({"prompt": f"what is {i}? ", "completion": "the cat " * (1 + i % 5)}) for i in range(80)]
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    settings = {
        "name": "pairs",
        "reader": {"kind": "jsonl", "paths": "pairs.jsonl", "text_key": ["prompt", "completion"]},
        "mode": {"kind": "prompt_completion"},
        "tokenizer": "tokenizer.json",
        "output": "pairs",
        "validation_fraction": 0.3,
    }
    return pipeline.run(PreprocessConfig.model_validate(settings), folder).output


def small_overrides(dataset: Path, output_dir: Path) -> list[str]:
    """What makes gptj_tiny a run of seconds: 2 layers of 32, 24 tokens a row, 12 steps, on the CPU."""
    return [
        f"data.train.path={dataset}",
        f"data.validation.path={dataset}",
        f"output_dir={output_dir}",
        "accelerator.device=cpu",
        "model.num_layers=2",
        "model.hidden_size=32",
        "model.num_heads=4",
        "model.position.fraction=0.5",
        "model.vocab_size=275",
        "data.seq_len=24",
        "trainer.global_batch_size=8",
        "trainer.max_tokens=null",
        "trainer.max_steps=12",
        "trainer.log_every_steps=1",
        "schedule.warmup_steps=3",
        "callbacks.evaluate.every_steps=5",
        "callbacks.checkpoint.every_steps=4",
        "callbacks.progress.every_seconds=0",
        "~callbacks.tensorboard",
        "~callbacks.loss_plot",
    ]


def small_config(dataset: Path, output_dir: Path, *overrides: str, base: str = "gptj_tiny") -> RunConfig:
    """`small_overrides` as a config, with further overrides."""
    return load_run_config(base, [*small_overrides(dataset, output_dir), *overrides])


def launch(config: RunConfig) -> Trainer:
    """The trainer of a run, at the step of its last checkpoint, and its folder."""
    trainer = build_run(config)
    resume(trainer, config)
    trainer.run_dir.mkdir(parents=True, exist_ok=True)
    return trainer


def comparable(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without what a clock or a process says: times, memory, and the last one, which has nothing else."""
    by_clock = ("second", "peak_memory")
    kept = [{k: v for k, v in record.items() if not any(part in k for part in by_clock)} for record in records]
    return [record for record in kept if set(record) - {"step", "tokens", "mfu", "hfu"}]
