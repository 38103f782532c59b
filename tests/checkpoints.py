"""A checkpoint without a training run: a small model with weights that say something different at each step."""

import json
from pathlib import Path

import torch

from modelzoo.model.gpt import GPT
from modelzoo.run_config import dump_yaml
from modelzoo.trainer.checkpoint import step_folder, write_checkpoint
from tests.runs import small_config
from tests.samples import small_tokenizer

CONTEXT = 64


def write_small_checkpoint(folder: Path) -> Path:
    """`folder` becomes the folder of a run with one checkpoint: 2 layers of 32, 275 ids, a context of 64."""
    config = small_config(Path("nowhere"), folder.parent, f"name={folder.name}", f"model.max_seq_len={CONTEXT}")
    model, tokenizer = GPT(config.model), small_tokenizer()
    assert model.lm_head is not None
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5, generator=generator)
        for token_id in range(1, tokenizer.vocab_size):  # text to be read, and now and then the end of a document
            if not (text := tokenizer.decode([token_id])).isprintable() or text == "�":
                model.lm_head.bias[token_id] = -100
    texts = {
        "config.yaml": dump_yaml(config),
        "tokenizer.json": tokenizer.backend.to_str(),
        "state.json": json.dumps({}),
    }
    write_checkpoint(step_folder(folder, 1), {"model": model.state_dict()}, texts)
    return folder
