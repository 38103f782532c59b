"""The adapters' layer: where it goes, what is trained, and that working it into the weights changes nothing."""

import copy

import pytest
import torch
from torch import nn

from modelzoo.model.cache import KVCache
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.model.inference import Inference
from modelzoo.model.lora import add_lora, initial_adapters, is_adapter, merged, store_adapters_only
from modelzoo.model.lora_config import LoraConfig, linear_names, linear_shape
from modelzoo.model.lora_layer import LoraLinear
from tests.model.families import redraw

FIELDS = {"num_layers": 2, "num_heads": 3, "hidden_size": 42, "ffn_size": 50, "vocab_size": 29, "max_seq_len": 21}
UNTIED = {"tie_embeddings": False, "lm_head_bias": True}
MUP = {"base_hidden_size": 8, "base_ffn_size": 30, "embeddings_scale": 3.0, "output_logits_alpha": 2.0}


def made(targets, dtype=torch.float32, mup=None, **options) -> tuple[GPT, LoraConfig]:
    """A model with adapters that say something, in evaluation mode."""
    model = GPT(ModelConfig.model_validate(FIELDS | UNTIED | {"mup": mup}))
    redraw(model, seed=3)
    lora = LoraConfig(rank=4, alpha=6.0, targets=tuple(targets), **options)
    add_lora(model, lora, dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if is_adapter(name):
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return model.eval(), lora


def merged_model(model: GPT, lora: LoraConfig) -> GPT:
    whole = GPT(model.config)
    state = model.state_dict()
    adapters = {name: state.pop(name) for name in list(state) if is_adapter(name)}
    whole.load_state_dict({name: merged(name, value, adapters, lora.scale) for name, value in state.items()})
    return whole.eval()


def ids(rows=3, length=15):
    return torch.randint(0, 29, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("tied", [True, False])
def test_the_names_and_shapes_are_those_of_the_models_linears(tied):
    config = ModelConfig.model_validate(FIELDS | ({} if tied else UNTIED))
    found = {name: tuple(m.weight.shape) for name, m in GPT(config).named_modules() if isinstance(m, nn.Linear)}
    assert {name: linear_shape(name, config) for name in linear_names(config)} == found


@pytest.mark.parametrize(
    ("targets", "count"),
    [(["*.qkv"], 2), (["blocks.0.*"], 4), (["blocks.*.mlp.*", "lm_head"], 5), (["*"], 9), (["lm_head"], 1)],
)
@pytest.mark.parametrize("mup", [None, MUP])
def test_merged_logits_loss_and_decoding_are_the_unmerged_ones(targets, count, mup):
    model, lora = made(targets, mup=mup)
    assert sum(isinstance(module, LoraLinear) for module in model.modules()) == count
    whole, base = merged_model(model, lora), copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in base.named_parameters():
            if name.endswith("lora_b"):
                parameter.zero_()
        assert (model(ids()) - base(ids())).abs().max() > 1e-2  # else nothing below would say anything
        torch.testing.assert_close(model(ids()), whole(ids()), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.loss(ids(), ids())[0], whole.loss(ids(), ids())[0], atol=1e-4, rtol=1e-6)
        torch.testing.assert_close(decoded(model), whole(ids(1))[0], atol=1e-5, rtol=1e-5)


def decoded(model):
    """Logits (T, V) as generation computes them."""
    cache = KVCache(model.config, 1, 15)
    cache.expect(0, [(0, 15)])
    inference = Inference(model)
    with torch.inference_mode():
        return inference.logits(inference.hidden(ids(1).flatten(), cache))


@pytest.mark.parametrize("targets", [["blocks.*"], ["lm_head"]])
def test_adapters_alone_have_gradients_and_those_of_the_merged_weights(targets):
    """dL/dA and dL/dB follow from dL/dW of the merged model: scale · Bᵀ dW and scale · dW Aᵀ."""
    model, lora = made(targets)
    whole = merged_model(model, lora)
    for each in (model, whole):
        each.loss(ids(), ids().roll(1))[0].backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == {name for name, _ in model.named_parameters() if is_adapter(name)}
    for name in lora.matched(model.config):
        layer = model.get_submodule(name)
        of_weight = whole.get_submodule(name).weight.grad
        torch.testing.assert_close(layer.lora_a.grad, lora.scale * layer.lora_b.T @ of_weight, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(layer.lora_b.grad, lora.scale * of_weight @ layer.lora_a.T, atol=1e-4, rtol=1e-4)


def test_a_run_begins_with_the_bases_own_loss():
    model, _ = made(["*"])
    base = model.state_dict()
    adapters = initial_adapters(model, seed=7)
    model.load_state_dict(base | adapters)
    assert all(bool(value.any()) == name.endswith("lora_a") for name, value in adapters.items())
    bound = max(adapters["blocks.0.mlp.fc_out.lora_a"].abs().max().item(), 0)
    assert 0.8 / 50**0.5 < bound <= 1 / 50**0.5
    plain = GPT(model.config)
    plain.load_state_dict({name: value for name, value in base.items() if not is_adapter(name)})
    assert torch.equal(model(ids()), plain.eval()(ids()))


def test_dropout_is_that_of_the_adapters_input_in_training():
    model, _ = made(["blocks.*.mlp.fc_in"], dropout=0.5)
    assert torch.equal(model(ids()), model(ids()))
    assert not torch.equal(model.train()(ids()), model(ids()))


def test_a_bf16_base_keeps_norms_embeddings_and_adapters_in_fp32():
    model, _ = made(["blocks.*"], torch.bfloat16)
    half = {name for name, p in model.named_parameters() if p.dtype == torch.bfloat16}
    assert half == {f"{name}.weight" for name in linear_names(model.config)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = model.loss(ids(), ids())
    loss.backward()
    assert model.get_submodule("blocks.0.mlp.fc_in").lora_a.grad.dtype == torch.float32
    assert decoded(model).isfinite().all()  # samples in mid-run need no autocast


def test_the_state_is_the_adapters_once_the_base_is_not_to_be_stored():
    model, _ = made(["*.qkv"])
    everything = set(model.state_dict())
    store_adapters_only(model)
    assert set(model.state_dict()) == {name for name in everything if is_adapter(name)}


def test_under_mup_an_adapter_learns_at_the_rate_of_its_input():
    model, _ = made(["*"], mup=MUP)
    rates = model.lr_multipliers()
    for name in ("blocks.0.attention.qkv", "blocks.1.mlp.fc_out"):
        assert rates[f"{name}.lora_a"] == rates[f"{name}.weight"] != 1
        assert rates[f"{name}.lora_b"] == 1
