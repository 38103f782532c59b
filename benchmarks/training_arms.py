"""What `benchmarks.training` times: a training step of transformers, litgpt, nanoGPT and ours on the same weights.

Every arm is a function that makes one step (forward, backward, fused AdamW) on a batch and returns its loss. Weights
travel by the names of Hugging Face's checkpoints, into which ours are converted.
"""

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelzoo.compare.timed_arm import TimedArm
from modelzoo.convert import hf
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.run_config import RunConfig
from modelzoo.trainer.protocols import Batch

NEOX: dict[str, Any] = {"parallel_residual": True, "tie_embeddings": False, "activation": "gelu"}
FAMILIES: dict[str, dict[str, Any]] = {
    "gptj": NEOX
    | {"tied_norm": True, "attention_bias": False, "lm_head_bias": True, "activation": "gelu_tanh"}
    | {"position": {"kind": "rotary", "style": "interleaved", "fraction": 0.25}},
    "gpt_neox": NEOX | {"position": {"kind": "rotary", "style": "half", "fraction": 0.25}},
    "gpt2": {"activation": "gelu"},  # nanoGPT has no other
}
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "rows": 2, "seq_len": 16, "vocab_size": 199},
    "small": {"num_layers": 6, "hidden_size": 256, "num_heads": 8, "rows": 8, "seq_len": 256},
    "base": {"num_layers": 12, "hidden_size": 768, "num_heads": 12, "rows": 2, "seq_len": 512},
    "125M": {"num_layers": 12, "hidden_size": 768, "num_heads": 12, "rows": 32, "seq_len": 2048},
    "1.3B": {"num_layers": 24, "hidden_size": 2048, "num_heads": 16, "rows": 8, "seq_len": 2048},
    "6B": {"num_layers": 28, "hidden_size": 4096, "num_heads": 16, "rows": 2, "seq_len": 2048},
}
OURS: dict[str, dict[str, Any]] = {"ours": {}, "ours, compiled": {"compile": True}}
"""Values of AcceleratorConfig."""
PEERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "transformers": ("transformers", tuple(FAMILIES)),
    "litgpt": ("litgpt", ("gpt_neox",)),
    "nanoGPT": ("nanogpt", ("gpt2",)),
}
"""The package, and the families that it has."""
ADAMW: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
DISTINCT = 4
"""Batches, of which the arms see one after the other, again and again: the loss falls."""


@dataclass(frozen=True)
class Case:
    """What all arms of a table have in common."""

    family: str
    size: str
    precision: str
    device: str = "cpu"
    rows: int | None = None
    seq_len: int | None = None
    nanogpt: str | None = None
    """A checkout of nanoGPT."""
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further arms of ours: a name, and values of AcceleratorConfig."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and tokens of a batch."""
        size = SIZES[self.size]
        return self.rows or size["rows"], self.seq_len or size["seq_len"]

    @property
    def model(self) -> ModelConfig:
        sizes = {name: value for name, value in SIZES[self.size].items() if name not in ("rows", "seq_len")}
        fields = {"vocab_size": 50_257} | sizes | FAMILIES[self.family] | {"max_seq_len": self.shape[1]}
        return ModelConfig.model_validate(fields)

    @property
    def ours(self) -> dict[str, Mapping[str, Any]]:
        return OURS | dict(self.extra)

    def arms(self) -> tuple[list[str], list[str]]:
        """The names of those that run, transformers first, and a line on each that is absent."""
        names, absent = list[str](), list[str]()
        for peer, (package, families) in PEERS.items():
            if self.family not in families:
                continue
            if peer == "nanoGPT" and self.nanogpt is None:
                absent.append("nanoGPT is absent (--nanogpt DIR, a checkout of karpathy/nanoGPT)")
            elif peer != "nanoGPT" and find_spec(package) is None:
                absent.append(f"{peer} is absent (pip install {package})")
            else:
                names += [peer, f"{peer}, compiled"]
        return [*names, *self.ours], absent


Step = Callable[[int], float]
"""Makes the i-th step, and returns its loss."""


def batches(case: Case) -> list[Batch]:
    """The data of all arms: tokens as uneven as a text's, so that there is something to learn at once."""
    rows, seq_len = case.shape
    draw = np.random.default_rng(0)
    found = list[Batch]()
    for _ in range(DISTINCT):
        tokens = (draw.random((rows, seq_len + 1)) ** 3 * case.model.vocab_size).astype(np.int64)
        mask = np.ones((rows, seq_len), dtype=np.bool_)
        found.append({"input_ids": tokens[:, :-1], "labels": tokens[:, 1:], "loss_mask": mask})
    return found


def weights_of(case: Case) -> dict[str, Tensor]:
    """Random ones, by the names of Hugging Face's files. None is 0 or 1, behind which a mistake could hide."""
    model = GPT(case.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.01
    return hf.weights_to_hf(model.state_dict(), case.model)


def build(name: str, case: Case, data: Sequence[Batch], weights: Mapping[str, Tensor] | None) -> Step:
    """An arm, with these weights or with those that it draws itself."""
    if name in case.ours:
        return _ours(case, case.ours[name], data, weights)
    peer, _, compiled = name.partition(", ")
    loss = {"transformers": _transformers, "litgpt": _litgpt, "nanoGPT": _nanogpt}[peer](case, weights, bool(compiled))
    return _loop(case, loss, data)


Loss = Callable[[Tensor, Tensor], Tensor]
"""Of input_ids and labels (B, T), the labels already shifted; the mean over tokens."""


@dataclass
class _Peer:
    loss: Loss
    parameters: Iterable[Tensor]


def _loop(case: Case, peer: _Peer, data: Sequence[Batch]) -> Step:
    """The step that scripts of the peers make."""
    optimizer = torch.optim.AdamW(peer.parameters, fused=True, **ADAMW)
    keys = ("input_ids", "labels")
    pairs = [[torch.from_numpy(each[key]).contiguous().to(case.device) for key in keys] for each in data]

    def step(index: int) -> float:
        with torch.autocast(case.device, torch.bfloat16, enabled=case.precision == "bf16"):
            loss = peer.loss(*pairs[index % len(pairs)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def _transformers(case: Case, weights: Mapping[str, Tensor] | None, compiled: bool) -> _Peer:
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = hf.config_to_hf(case.model)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    with torch.device(case.device):
        model = AutoModelForCausalLM.from_config(config)
    if weights is not None:
        own = model.state_dict()
        named = {name if name in own else name.replace("embed_out", "lm_head"): each for name, each in weights.items()}
        missing, surplus = model.load_state_dict(named, strict=False)
        assert not surplus, surplus
        assert set(missing) <= ({"lm_head.weight"} if case.model.tie_embeddings else set()), missing
    model.train()
    run = torch.compile(model) if compiled else model

    def loss(input_ids: Tensor, labels: Tensor) -> Tensor:
        return run(input_ids=input_ids, labels=labels, shift_labels=labels, use_cache=False).loss

    return _Peer(loss, model.parameters())


def _litgpt(case: Case, weights: Mapping[str, Tensor] | None, compiled: bool) -> _Peer:
    from litgpt.config import Config
    from litgpt.model import GPT as LitGPT
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_gpt_neox
    from litgpt.utils import chunked_cross_entropy

    ours = case.model
    config = Config(
        block_size=ours.max_seq_len,
        padded_vocab_size=ours.num_embeddings,
        vocab_size=ours.vocab_size,
        n_layer=ours.num_layers,
        n_head=ours.num_heads,
        n_embd=ours.hidden_size,
        rotary_percentage=0.25,
        parallel_residual=True,
        bias=True,
        gelu_approximate="none",
        norm_eps=ours.norm_eps,
    )
    with torch.device(case.device):
        model = LitGPT(config)
    if weights is not None:
        theirs = dict[str, Tensor]()
        copy_weights_gpt_neox(config, theirs, dict(weights))
        model.load_state_dict(theirs)
    run = torch.compile(model) if compiled else model
    return _Peer(lambda input_ids, labels: chunked_cross_entropy(run(input_ids), labels), model.parameters())


def _nanogpt(case: Case, weights: Mapping[str, Tensor] | None, compiled: bool) -> _Peer:
    assert case.nanogpt is not None
    if not (Path(case.nanogpt) / "model.py").is_file():
        sys.exit(f"--nanogpt {case.nanogpt}: there is no model.py; give a checkout of karpathy/nanoGPT")
    sys.path.insert(0, case.nanogpt)
    module = importlib.import_module("model")
    sys.path.remove(case.nanogpt)
    ours = case.model
    sizes = {"n_layer": ours.num_layers, "n_head": ours.num_heads, "n_embd": ours.hidden_size}
    config = module.GPTConfig(block_size=ours.max_seq_len, vocab_size=ours.num_embeddings, **sizes)
    with torch.device(case.device):
        model = module.GPT(config)
    if weights is not None:
        turned = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
        prefix = "" if any(name.startswith("transformer.") for name in weights) else "transformer."
        theirs = {prefix + name: each.T if name.endswith(turned) else each for name, each in weights.items()}
        missing, surplus = model.load_state_dict(theirs, strict=False)
        assert not surplus, surplus
        assert set(missing) <= {"lm_head.weight"}, missing
    run = torch.compile(model) if compiled else model
    return _Peer(lambda input_ids, labels: run(input_ids, labels)[1], model.parameters())


def _ours(
    case: Case, accelerator: Mapping[str, Any], data: Sequence[Batch], weights: Mapping[str, Tensor] | None
) -> Step:
    """An update of the trainer, with all that it does besides: the batch's hash, the gradient's norm, the clock."""
    rows, seq_len = case.shape
    sections = {
        "name": "benchmark",
        "model": case.model.model_dump(),
        "data": {"train": {"path": "none"}, "seq_len": seq_len},
        "optimizer": {"kind": "adamw", **ADAMW},
        "schedule": {"kind": "constant"},
        "trainer": {"global_batch_size": rows, "max_steps": 10**6, "gradient_clip_norm": None},
        "accelerator": {"device": case.device, "precision": case.precision, "strict": True, **accelerator},
    }
    arm = TimedArm(RunConfig.model_validate(sections), data, lambda step: 1.0)
    if weights is not None:
        layout = hf.config_to_hf(case.model)
        with torch.no_grad():
            for name, value in hf.weights_from_hf(weights, layout, case.model).items():
                arm.trainer.model.get_parameter(name).copy_(value)

    def step(index: int) -> float:
        arm.trainer.step = index
        arm.trainer.since_record["loss_sum"] = 0.0
        arm.update()
        return arm.trainer.since_record["loss_sum"] / (rows * seq_len)

    return step
