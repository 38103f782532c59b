"""What the arms of a table of `benchmarks.training` have in common, and which there are. No torch."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from modelzoo.model.config import ModelConfig

if TYPE_CHECKING:
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
OTHER_SIZE = re.compile(r"(\d+)x(\d+)x(\d+)")
"""Layers, hidden size and heads; its batch is that of small."""
OURS: dict[str, dict[str, Any]] = {"ours": {}, "ours, compiled": {"compile": True}}
"""Values of AcceleratorConfig."""
OWN_KEYS = ("compile", "fused_projections", "activation_checkpointing")
"""Of it, what an arm may choose: the rest is the table's, or of several processes."""
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
        size = size_of(self.size)
        return self.rows or size["rows"], self.seq_len or size["seq_len"]

    @property
    def model(self) -> ModelConfig:
        sizes = {name: value for name, value in size_of(self.size).items() if name not in ("rows", "seq_len")}
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

    def run(self, accelerator: Mapping[str, Any]) -> "RunConfig":
        """Our trainer's config, with these values of AcceleratorConfig. Raises ValueError where they do not fit."""
        from modelzoo.config_errors import Provenance, describe_all
        from modelzoo.run_config import RunConfig

        rows, seq_len = self.shape
        try:
            model = self.model
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"--size {self.size}: {' '.join([*map(str, first['loc']), first['msg']])}") from None
        sections = {
            "name": "benchmark",
            "model": model.model_dump(),
            "data": {"train": {"path": "none"}, "seq_len": seq_len},
            "optimizer": {"kind": "adamw", **ADAMW},
            "schedule": {"kind": "constant"},
            "trainer": {"global_batch_size": rows, "max_steps": 10**6, "gradient_clip_norm": None},
            "accelerator": {"device": self.device, "precision": self.precision, "strict": True, **accelerator},
        }
        try:
            return RunConfig.model_validate(sections)
        except ValidationError as error:
            raise ValueError("\n".join(describe_all(error, RunConfig, sections, Provenance(self.family)))) from None


def size_of(name: str) -> dict[str, int]:
    """The model's sizes and those of a batch. Raises ValueError for a name that says neither."""
    if name in SIZES:
        return SIZES[name]
    if (found := OTHER_SIZE.fullmatch(name)) is None:
        raise ValueError(
            f"--size {name}: choose from {', '.join(SIZES)}, or say layers x hidden size x heads, as 8x512x8"
        )
    batch = {key: SIZES["small"][key] for key in ("rows", "seq_len")}
    return dict(zip(("num_layers", "hidden_size", "num_heads"), map(int, found.groups()), strict=True)) | batch


def positive(text: str) -> int:
    """Of the command line. Raises ValueError for less than 1."""
    if (value := int(text)) < 1:
        raise ValueError(value)
    return value


def own_arm(pairs: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """A further arm of ours, of KEY=VALUE: its name and its values. Raises ValueError for a key that no arm has."""
    values = dict[str, Any]()
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in OWN_KEYS or not text:
            raise ValueError(f"--ours {pair}: expected KEY=VALUE, KEY one of {', '.join(OWN_KEYS)}")
        values[key] = {"true": True, "false": False}.get(text, text)
    return f"ours, {' '.join(pairs)}", values


Step = Callable[[int], float]
"""Makes the i-th step, and returns its loss."""


def batches(case: Case) -> "list[Batch]":
    """The data of all arms: tokens as uneven as a text's, so that there is something to learn at once."""
    rows, seq_len = case.shape
    draw = np.random.default_rng(0)
    found = list["Batch"]()
    for _ in range(DISTINCT):
        tokens = (draw.random((rows, seq_len + 1)) ** 3 * case.model.vocab_size).astype(np.int64)
        mask = np.ones((rows, seq_len), dtype=np.bool_)
        found.append({"input_ids": tokens[:, :-1], "labels": tokens[:, 1:], "loss_mask": mask})
    return found
