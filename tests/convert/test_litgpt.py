"""GPT-NeoX through litgpt, a third implementation, both ways. Needs litgpt (its own version of transformers serves)."""

import shutil
from pathlib import Path

import pytest
import torch

from modelzoo.cli import export_hf, import_hf
from modelzoo.saved_models import load_model
from tests.convert.test_fold import checkpoint
from tests.model.families import redraw

pytestmark = pytest.mark.long


@pytest.mark.parametrize("parallel", [True, False])
def test_equal_logits_both_ways(parallel, tmp_path):
    pytest.importorskip("litgpt", reason="litgpt is not installed")
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.scripts.convert_hf_checkpoint import convert_hf_checkpoint
    from litgpt.scripts.convert_lit_checkpoint import convert_lit_checkpoint
    from litgpt.utils import save_config

    config = Config.from_name("pythia-14m", parallel_residual=parallel)
    position = {
        "kind": "rotary",
        "style": "half",
        "fraction": config.rotary_percentage,
        "theta": float(config.rope_base),
    }
    ours = checkpoint(
        tmp_path / "ours",
        num_layers=config.n_layer,
        num_heads=config.n_head,
        hidden_size=config.n_embd,
        ffn_size=config.intermediate_size,
        vocab_size=config.padded_vocab_size,
        max_seq_len=config.block_size,
        parallel_residual=parallel,
        position=position,
        activation="gelu",
        tie_embeddings=False,
    )
    export_hf.run(ours, tmp_path / "hf", max_shard_size="20MB")
    convert_hf_checkpoint(tmp_path / "hf", model_name="pythia-14m")
    ids = torch.randint(0, config.padded_vocab_size, (2, 32))
    theirs = GPT(config).eval()
    theirs.load_state_dict(torch.load(tmp_path / "hf" / "lit_model.pth", weights_only=True))
    assert largest_difference(load_model(ours), theirs, ids) < 1e-5

    redraw(theirs, seed=2)
    Path(tmp_path / "lit").mkdir()
    torch.save(theirs.state_dict(), tmp_path / "lit" / "lit_model.pth")
    save_config(config, tmp_path / "lit")
    convert_lit_checkpoint(tmp_path / "lit", tmp_path / "back")
    shutil.move(tmp_path / "back" / "model.pth", tmp_path / "back" / "pytorch_model.bin")
    shutil.copy(tmp_path / "hf" / "config.json", tmp_path / "back")
    import_hf.run(str(tmp_path / "back"), tmp_path / "again")
    assert largest_difference(load_model(tmp_path / "again"), theirs, ids) < 1e-5


@torch.no_grad()
def largest_difference(a, b, ids):
    return (a(ids) - b(ids)).abs().max()
