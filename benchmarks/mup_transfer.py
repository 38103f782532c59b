"""Does the best learning rate of a narrow model hold for a wide one? GPT-J at two widths, muP against standard.

    python -m benchmarks.mup_transfer run --corpus FILE.jsonl.xz --results FILE.jsonl [--mup | --standard]
        --widths 128 512 --log2-lrs -9 -8 -7 -6 --seeds 0 1
    python -m benchmarks.mup_transfer report --results FILE.jsonl [--plot FILE.svg]

The base width is 128, with multipliers that make the two parametrisations the same model there: what they do
at 128 is run once. Each result is appended as it comes; a run that the file holds is not repeated.
"""

import argparse
import json
import lzma
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_preprocessing.config import TokenizerTrainConfig
from data_preprocessing.tokenizer_training import train as train_tokenizer
from modelzoo.allocator import keep_freed_memory
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.mup.widths import at_width
from modelzoo.optimizer.adamw import AdamWConfig
from modelzoo.optimizer.base import parameter_groups
from modelzoo.schedule.linear import LinearConfig
from modelzoo.tokenizer import Tokenizer

BASE, HEAD_DIM, SEQ_LEN, BATCH, STEPS, VOCAB = 128, 32, 64, 4, 200, 2048
VALIDATION_ROWS = 192
HELD_OUT = 0.05
"""Share of the tokens, from the corpus' end, that is never trained on."""

MODEL = ModelConfig.model_validate(
    {
        "num_layers": 2,
        "num_heads": BASE // HEAD_DIM,
        "hidden_size": BASE,
        "vocab_size": VOCAB,
        "max_seq_len": SEQ_LEN,
        # the block of configs/model/gptj.yaml
        "parallel_residual": True,
        "tied_norm": True,
        "position": {"kind": "rotary", "style": "interleaved", "fraction": 0.25},
        "attention_bias": False,
        "lm_head_bias": True,
        "tie_embeddings": False,
        "init": {"scheme": "mesh_jax"},
        # alpha / head_dim = 1 / sqrt(head_dim): at the base width, the standard model
        "mup": {"base_hidden_size": BASE, "base_ffn_size": 4 * BASE, "attention_logits_alpha": HEAD_DIM**0.5},
    }
)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run", help="train what the results lack")
    run.add_argument("--corpus", type=Path, required=True, help="JSONL with the key text; .xz will do")
    run.add_argument("--widths", type=int, nargs="+", default=[128, 512])
    run.add_argument("--log2-lrs", type=float, nargs="+", required=True)
    run.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    which = run.add_mutually_exclusive_group()
    which.add_argument("--mup", action="store_true", help="muP alone")
    which.add_argument("--standard", action="store_true", help="the standard parametrisation alone")
    report = verbs.add_parser("report", help="best rates and their ratios")
    report.add_argument("--plot", type=Path, metavar="FILE")
    for verb in (run, report):
        verb.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.verb == "run":
        run_all(arguments)
    else:
        from benchmarks.mup_transfer_report import report as print_report

        print_report(read(arguments.results), arguments.plot)


def run_all(arguments: argparse.Namespace) -> None:
    """Train every combination that the results lack, and append what it reached."""
    torch.set_num_threads(1)
    keep_freed_memory()
    tokens = corpus_tokens(arguments.corpus, arguments.results.parent)
    kinds = ["mup"] if arguments.mup else ["standard"] if arguments.standard else ["mup", "standard"]
    done = {(r["parametrisation"], r["width"], r["log2_lr"], r["seed"]) for r in read(arguments.results)}
    for seed, width, kind, log2_lr in product(arguments.seeds, arguments.widths, kinds, arguments.log2_lrs):
        key = ("both" if width == BASE else kind, width, log2_lr, seed)
        if key in done:
            continue
        done.add(key)
        started = time.monotonic()
        loss = train(width, kind == "mup", 2.0**log2_lr, seed, tokens)
        names = ("parametrisation", "width", "log2_lr", "seed")
        seconds = round(time.monotonic() - started, 1)
        line = json.dumps(dict(zip(names, key, strict=True)) | {"loss": round(loss, 5), "seconds": seconds})
        with arguments.results.open("a", encoding="utf-8") as results:
            results.write(line + "\n")
        print(line, flush=True)


def read(results: Path) -> list[dict[str, Any]]:
    """The results so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def corpus_tokens(corpus: Path, work: Path) -> np.ndarray:
    """All tokens of the corpus by a BPE that is trained on it; both are kept in `work`."""
    work.mkdir(parents=True, exist_ok=True)
    saved = work / f"{corpus.name.split('.')[0]}_{VOCAB}.npy"
    if not saved.exists():
        output = work / f"{saved.stem}_tokenizer.json"
        reader = {"kind": "jsonl", "paths": [str(corpus.resolve())]}
        config = {"name": saved.stem, "reader": reader, "output": str(output), "vocab_size": VOCAB, "style": "gpt2"}
        train_tokenizer(TokenizerTrainConfig.model_validate(config))
        with lzma.open(corpus, "rt") if corpus.suffix == ".xz" else corpus.open() as lines:
            texts = [json.loads(line)["text"] for line in lines]
        tokenizer = Tokenizer.load(output)
        rows = [[*ids, tokenizer.end_of_document_id] for ids in tokenizer.encode_batch(texts)]
        np.save(saved, np.concatenate(rows).astype(np.int64))
    return np.load(saved)


def train(width: int, mup: bool, lr: float, seed: int, tokens: np.ndarray) -> float:
    """The validation loss, in nats a token, at the end of a run. The seed gives the weights and the data."""
    config = at_width(MODEL, width)
    model = GPT(config if mup else config.model_copy(update={"mup": None}), seed=seed)
    optimizer_config = AdamWConfig(lr=lr)
    groups = parameter_groups(model.named_parameters(), lr, optimizer_config.weight_decay, model.lr_multipliers())
    optimizer = optimizer_config.build(groups, fused=True)
    schedule = LinearConfig(warmup_steps=STEPS // 10)
    split = int(len(tokens) * (1 - HELD_OUT))
    rng = np.random.default_rng(seed)
    for step in range(STEPS):
        factor = schedule.factor(step, STEPS, BATCH * SEQ_LEN)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        inputs, labels = batch(tokens[:split], rng.integers(0, split - SEQ_LEN - 1, BATCH))
        loss, count = model.loss(inputs, labels)
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    starts = np.linspace(split, len(tokens) - SEQ_LEN - 1, VALIDATION_ROWS).astype(int)
    with torch.no_grad():
        loss, count = model.loss(*batch(tokens, starts))
    return (loss / count).item()


def batch(tokens: np.ndarray, starts: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels, each (B, T)."""
    rows = torch.from_numpy(np.stack([tokens[s : s + SEQ_LEN + 1] for s in starts]))
    return rows[:, :-1], rows[:, 1:]


if __name__ == "__main__":
    main()
