"""Weights that cannot be imported: the message names tensor or file, no code of theirs is run, and nothing is left."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.convert.hf_models import FAMILIES, refused, save

QKV = {
    "gpt2": "transformer.h.1.attn.c_attn.weight",
    "gptj": "transformer.h.1.attn.k_proj.weight",
    "gpt_neox": "gpt_neox.layers.1.attention.query_key_value.bias",
}


@pytest.fixture(params=FAMILIES)
def hf_folder(request, tmp_path):
    save(tmp_path / "hf", request.param)
    return tmp_path / "hf"


def change_weights(folder: Path, change) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_missing_tensor(hf_folder):
    family = json.loads((hf_folder / "config.json").read_text())["model_type"]
    change_weights(hf_folder, lambda state: state.pop(QKV[family]))
    refused(hf_folder, f"the weights have no '{QKV[family]}'")


def test_an_extra_tensor(hf_folder):
    change_weights(hf_folder, lambda state: state.update({"h.7.mystery.weight": torch.zeros(2)}))
    refused(hf_folder, r"1 tensors that the config does not need: 'h\.7\.mystery\.weight'")


def test_a_wrong_shape(hf_folder):
    family = json.loads((hf_folder / "config.json").read_text())["model_type"]
    change_weights(hf_folder, lambda state: state.update({QKV[family]: state[QKV[family]][..., :-1].contiguous()}))
    refused(hf_folder, rf"{QKV[family]} has shape \(.*\), and the config needs \(")


def test_a_type_that_is_no_weight(hf_folder):
    family = json.loads((hf_folder / "config.json").read_text())["model_type"]
    change_weights(hf_folder, lambda state: state.update({QKV[family]: state[QKV[family]].to(torch.int8)}))
    refused(hf_folder, f"{QKV[family]}' is of a type that is not read")


def test_another_tied_head(tmp_path):
    save(tmp_path / "hf", "gpt2")
    change_weights(tmp_path / "hf", lambda state: state.update({"lm_head.weight": torch.zeros(275, 30)}))
    refused(tmp_path / "hf", r"lm_head\.weight differs from the embedding")


def test_a_head_under_both_names(tmp_path):
    save(tmp_path / "hf", "gpt_neox")
    change_weights(tmp_path / "hf", lambda state: state.update({"lm_head.weight": state["embed_out.weight"].clone()}))
    refused(tmp_path / "hf", "hold both 'embed_out.weight' and 'lm_head.weight'")


@pytest.mark.parametrize("length", [0, 5, 300, -1])
def test_a_truncated_safetensors_file(hf_folder, length):
    file = hf_folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    refused(hf_folder, r"model\.safetensors: not a whole safetensors file")


def test_a_part_that_is_missing_cut_or_not_what_the_index_says(tmp_path):
    save(tmp_path / "hf", "gptj", shard="40KB")
    part = next(iter((tmp_path / "hf").glob("model-00002*")))
    content = part.read_bytes()
    part.write_bytes(content[:-7])
    refused(tmp_path / "hf", f"{part.name}: not a whole safetensors file")
    part.unlink()
    refused(tmp_path / "hf", f"{part.name}: no such file")
    part.write_bytes(next(iter((tmp_path / "hf").glob("model-00001*"))).read_bytes())
    refused(tmp_path / "hf", f"{part.name}: holds '.*', and so does model-00001")
    save_file({"other": torch.zeros(1)}, part)
    refused(tmp_path / "hf", f"{part.name}: has no tensor '.*', and model.safetensors.index.json says so")
    index = tmp_path / "hf" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    refused(tmp_path / "hf", "has no weight_map of tensor names to files beside it")


class Runs:
    """Unpickling it would write a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_bin_that_holds_code_is_not_run(tmp_path, zipped):
    theirs = save(tmp_path / "hf", "gpt2")
    (tmp_path / "hf" / "model.safetensors").unlink()
    state = {**theirs.state_dict(), "extra": Runs(tmp_path / "hf" / "has_run")}
    file = tmp_path / "hf" / "pytorch_model.bin"
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "hf", r"pytorch_model\.bin: is not read: it is damaged, or holds more than tensors")
    assert not (tmp_path / "hf" / "has_run").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "hf" / "has_run").exists()  # the trap is a real one


def test_other_bins(tmp_path):
    theirs = save(tmp_path / "hf", "gpt2")
    (tmp_path / "hf" / "model.safetensors").unlink()
    file = tmp_path / "hf" / "pytorch_model.bin"
    torch.save(theirs.state_dict(), file)
    file.write_bytes(file.read_bytes()[:-100])
    refused(tmp_path / "hf", "pytorch_model.bin: is not read")
    torch.save([1, 2], file)
    refused(tmp_path / "hf", "holds no tensors by name")
    torch.save({"epoch": 3}, file)
    refused(tmp_path / "hf", "'epoch' is no tensor")


@pytest.mark.parametrize("kind", ["meta", "csr", "coo", "nested"])
def test_a_bin_of_tensors_without_values(tmp_path, kind):
    theirs = save(tmp_path / "hf", "gpt2")
    (tmp_path / "hf" / "model.safetensors").unlink()
    state = theirs.state_dict()
    weight = state[QKV["gpt2"]]
    state[QKV["gpt2"]] = {
        "meta": lambda: weight.to("meta"),
        "csr": weight.to_sparse_csr,
        "coo": weight.to_sparse,
        "nested": lambda: torch.nested.nested_tensor([weight, weight[:2]]),
    }[kind]()
    torch.save(state, tmp_path / "hf" / "pytorch_model.bin")
    refused(tmp_path / "hf", rf"pytorch_model\.bin: ('{QKV['gpt2']}' is no dense tensor|is not read)")
