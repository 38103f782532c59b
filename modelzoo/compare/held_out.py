"""What a finished run makes of the held-out text, document by document: the numbers that a study compares."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelzoo.compare.config import HeldOutConfig
from modelzoo.compare.fairness import held_out_dataset
from modelzoo.compare.plan import HELD_OUT, MEASURE_CODE, code_sha256
from modelzoo.data.config import SourceConfig
from modelzoo.evaluate.documents import Tokens, score_documents
from modelzoo.evaluate.scoring import Scorer
from modelzoo.evaluate.totals import TextSizes
from modelzoo.files import write_text
from modelzoo.run_config import RunConfig
from modelzoo.saved_models import load_model, tokenizer_in
from modelzoo.tokenizer import Tokenizer
from modelzoo.trainer.accelerator import choose_accelerator
from modelzoo.trainer.checkpoint import find_checkpoint, step_of


def measure_held_out(run_dir: Path, config: RunConfig, held_out: HeldOutConfig) -> dict[str, Any]:
    """Score the run's newest checkpoint on each validation set, and write the run's held_out.json.

    Each document is read alone, a long one in windows of `data.seq_len` tokens that overlap by half. Returns what the
    file holds: by set `num_bytes`, `num_tokens` and `loss_sums` (nats, its end included) of each document, and
    `documents_sha256` of their text.
    """
    folder = find_checkpoint(run_dir)
    accelerator = choose_accelerator(config.accelerator)
    scorer = Scorer(load_model(folder, str(accelerator.device)), accelerator, held_out.batch_size)
    tokenizer = tokenizer_in(folder)
    sets = {
        name: _of_set(source, config, scorer, tokenizer, held_out.max_bytes)
        for name, source in config.data.validation_sources().items()
    }
    found = {
        "schema": 1, "step": step_of(folder.name), "checkpoint": folder.name, "max_bytes": held_out.max_bytes,
        "code_sha256": code_sha256(MEASURE_CODE), "sets": sets,
    }  # fmt: skip
    write_text(run_dir / HELD_OUT, json.dumps(found) + "\n")
    return found


def write_diverged(run_dir: Path, config: RunConfig, held_out: HeldOutConfig, reason: str) -> None:
    """The held_out.json of a run that no numbers can be had of."""
    found = {
        "schema": 1, "step": config.total_steps, "max_bytes": held_out.max_bytes,
        "code_sha256": code_sha256(MEASURE_CODE), "diverged": reason, "sets": {},
    }  # fmt: skip
    write_text(run_dir / HELD_OUT, json.dumps(found) + "\n")


def _of_set(
    source: SourceConfig, config: RunConfig, scorer: Scorer, tokenizer: Tokenizer, max_bytes: int
) -> dict[str, Any]:
    seq_len = config.data.seq_len
    digest = hashlib.sha256()
    totals = list(
        score_documents(
            scorer,
            _documents(source, config, tokenizer, max_bytes, digest.update),
            tokenizer.end_of_document_id,
            seq_len,
            max(1, seq_len // 2),
        )
    )
    return {
        "num_bytes": [document.num_bytes for document in totals],
        "num_tokens": [document.num_tokens for document in totals],
        "loss_sums": [document.loss_sum for document in totals],
        "documents_sha256": digest.hexdigest(),
    }


def _documents(
    source: SourceConfig, config: RunConfig, tokenizer: Tokenizer, max_bytes: int, on_text: Any
) -> Iterator[Tokens]:
    """Whole documents from the beginning of a set, until they have `max_bytes` bytes; each text also to `on_text`."""
    data = config.data
    dataset = held_out_dataset(source, config)
    sizes, left = TextSizes.of(tokenizer), max_bytes
    for index in range(dataset.num_documents):
        ids = dataset.document(index)
        content = tokenizer.decode_bytes(ids)
        if index and len(content) > left:
            return
        left -= len(content)
        on_text(hashlib.sha256(content).digest())
        yield Tokens(ids, *sizes.count(ids), place=f"{data.tokenizer or source.path}:{index}")
