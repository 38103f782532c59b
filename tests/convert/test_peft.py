"""The adapters of a run, exported: peft gives on the exported base the logits of our merged model."""

import json
from pathlib import Path

import pytest
import torch

from modelzoo.base_config import UserError
from modelzoo.cli.export_hf import run as export
from modelzoo.cli.vocab import run as change_vocabulary
from modelzoo.convert import hf
from modelzoo.convert.adapters import BASE, base_text, merge_checkpoint
from modelzoo.convert.importing import model_yaml
from modelzoo.convert.peft import CONFIG, adapter_tensors
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.model.lora import add_lora, is_adapter
from modelzoo.model.lora_config import LoraConfig
from modelzoo.saved_models import load_model, load_model_config
from modelzoo.trainer.checkpoint import read_tensors, write_checkpoint
from tests.model.families import redraw
from tests.samples import small_tokenizer

SIZES = {"num_layers": 2, "num_heads": 3, "hidden_size": 30, "ffn_size": 77, "vocab_size": 275, "max_seq_len": 40}
ROTARY = {"kind": "rotary", "fraction": 0.6}
MODELS = {
    "gpt2": {"activation": "gelu_tanh"},
    "gpt2, own head": {"tie_embeddings": False},
    "gptj": {
        "position": ROTARY,
        "parallel_residual": True,
        "tied_norm": True,
        "attention_bias": False,
        "lm_head_bias": True,
        "tie_embeddings": False,
    },
    "gpt_neox": {"position": ROTARY | {"style": "half"}, "parallel_residual": True, "tie_embeddings": False},
}
MUP = {"mup": {"base_hidden_size": 10, "base_ffn_size": 20, "attention_logits_alpha": 3.0, "output_logits_alpha": 2.0}}


def write(folder: Path, options: dict, targets: tuple[str, ...] = ("*",), rank: int = 3) -> tuple[Path, Path]:
    """The checkpoints of a base and of adapters on it, all of them saying something."""
    config = ModelConfig.model_validate(SIZES | options)
    lora = LoraConfig(rank=rank, alpha=5.0, targets=targets)
    model = GPT(config)
    add_lora(model, lora)
    redraw(model, seed=4)
    state = model.state_dict()
    whole = {name: value for name, value in state.items() if not is_adapter(name)}
    texts = {
        "config.yaml": model_yaml(config),
        "tokenizer.json": small_tokenizer().backend.to_str(),
        "state.json": "{}",
    }
    write_checkpoint(folder / "base", {"model": whole}, texts)
    texts["config.yaml"] += f"lora: {json.dumps(lora.model_dump(mode='json'))}\n"
    texts[BASE] = base_text(folder / "base")
    adapters = {name: value for name, value in state.items() if is_adapter(name)}
    write_checkpoint(folder / "adapters", {"model": adapters}, texts)
    return folder / "base", folder / "adapters"


@pytest.mark.parametrize("mup", [{}, MUP], ids=["", "muP"])
@pytest.mark.parametrize("name", MODELS)
def test_peft_gives_our_logits(name, mup, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base, adapters = write(tmp_path, MODELS[name] | mup)
    export(base, tmp_path / "hf", check=False)
    report = export(adapters, tmp_path / "peft", base_model=str(tmp_path / "hf"))
    assert report["logit_check"]["result"] == "equal", report
    ids = torch.randint(0, 275, (2, 40), generator=torch.Generator().manual_seed(2))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    with torch.no_grad():
        ours = load_model(adapters)(ids)
        assert (plain.eval()(ids).logits - ours).abs().max() > 0.1  # else an adapter that is passed over would do
        theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "peft").eval()
        assert sum("lora_A" in n for n, _ in theirs.named_modules()) > 0
        torch.testing.assert_close(theirs(ids).logits, ours, atol=1e-5 * ours.std().item(), rtol=1e-5)
        merged = theirs.merge_and_unload()
        torch.testing.assert_close(merged(ids).logits, ours, atol=1e-4 * ours.std().item(), rtol=1e-4)


def test_a_rank_of_one_kind_of_module_in_one_layer(tmp_path):
    peft = pytest.importorskip("peft")
    base, adapters = write(tmp_path, MODELS["gptj"], ("blocks.1.attention.qkv", "*.mlp.fc_in"), rank=2)
    export(base, tmp_path / "hf", check=False)
    export(adapters, tmp_path / "peft", base_model=str(tmp_path / "hf"))
    about = json.loads((tmp_path / "peft" / CONFIG).read_text())
    assert set(about["target_modules"]) == {"mlp.fc_in", *(f"transformer.h.1.attn.{p}_proj" for p in "qkv")}
    ids = torch.randint(0, 275, (1, 20))
    with torch.no_grad():
        theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "peft").eval()(ids).logits
        torch.testing.assert_close(theirs, load_model(adapters)(ids), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("mup", [{}, MUP], ids=["", "muP"])
@pytest.mark.parametrize("name", MODELS)
def test_the_products_of_what_is_exported_are_the_differences_of_the_weights(name, mup, tmp_path):
    """The same without peft: W' - W of the exported models is scale · B A, transposed where they keep (in, out)."""
    base, adapters = write(tmp_path, MODELS[name] | mup)
    config = load_model_config(adapters)
    merge_checkpoint(adapters, config, tmp_path / "merged", max_file_bytes=10**9)
    both = [_exported(folder, tmp_path / f"hf_{folder.name}") for folder in (base, tmp_path / "merged")]
    found = adapter_tensors(read_tensors(adapters, "model"), config, hf.family_for(config))
    modules = {n.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for n in found if "lora_A" in n}
    for module in modules:
        a, b = (found[f"base_model.model.{module}.lora_{kind}.weight"] for kind in "AB")
        name_on_disk = f"{'embed_out' if module == 'lm_head' and 'embed_out.weight' in both[0] else module}.weight"
        difference = both[1][name_on_disk] - both[0][name_on_disk]
        product = 5.0 / 3 * b @ a
        stored = product.T if "gpt2" in name and module != "lm_head" else product
        torch.testing.assert_close(difference, stored, atol=1e-4, rtol=1e-4)
    changed = {n for n in both[0] if not torch.equal(both[0][n], both[1][n])}
    assert len(changed) == len(modules)


def _exported(folder: Path, out: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    export(folder, out, check=False)
    return load_file(out / "model.safetensors")


def test_what_cannot_be_exported_or_merged_is_said(tmp_path):
    base, adapters = write(tmp_path, MODELS["gptj"])
    with pytest.raises(UserError, match="no adapters to merge"):
        merge_checkpoint(base, load_model_config(base), tmp_path / "out", max_file_bytes=10**9)
    with pytest.raises(UserError, match="holds the adapters of a LoRA run, and no embeddings"):
        change_vocabulary(adapters, str(base / "tokenizer.json"), tmp_path / "out")
    with pytest.raises(UserError, match="needs no base"):
        export(base, tmp_path / "out", base_model="x")
    (tmp_path / "away").mkdir()
    base.rename(tmp_path / "away" / "base")
    with pytest.raises(UserError, match="needs their base"):
        export(adapters, tmp_path / "out")
    report = merge_checkpoint(
        adapters, load_model_config(adapters), tmp_path / "out", base=tmp_path / "away" / "base", max_file_bytes=10**9
    )
    assert report["base"] == str(tmp_path / "away" / "base")
