"""What a family of Hugging Face's models is to us: a table of names, from which both directions follow."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from modelzoo.base_config import UserError
from modelzoo.convert.layout import Part, Rule
from modelzoo.model.config import ModelConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",  # the same tanh approximation, its constants written as decimals
    "gelu_pytorch_tanh": "gelu_tanh",
}
ACTIVATIONS_BACK = {"gelu": "gelu", "gelu_tanh": "gelu_new"}

NEVER: dict[str, tuple[Any, ...]] = {
    "alibi": (False, None),
    "multi_query": (False, None),
    "add_cross_attention": (False, None),
    "is_encoder_decoder": (False, None),
    "quantization_config": (None,),
    "sliding_window": (None,),
    "pruned_heads": ({}, None),
}
"""Fields of any config.json that would change the model, with the values that change nothing."""

NO_ROPE: tuple[Any, ...] = (None, {}, {"type": "default"}, {"rope_type": "default"})
"""Of `rope_scaling`, in models that have nothing for it to change."""

DTYPES = ("float32", "float16", "bfloat16", "float64", "float", "half", "double", "float8_e4m3fn", "float8_e5m2")
"""Names of torch's that a config.json may say its weights have; the files say it themselves."""

LARGEST, LARGEST_SIZE = 1e30, 100_000_000
"""Of numbers and of sizes. Beyond them nothing is computed, not even how large the weights are."""


@dataclass(frozen=True)
class Family:
    """A `model_type` of Hugging Face's. Fields of a config.json are theirs, options of ModelConfig ours."""

    model_type: str
    architecture: str
    """The class in transformers that has the head."""
    description: str
    """What our options say of such a model, for messages."""
    sizes: Mapping[str, str]
    """Our option -> their field, where the values are equal and must be given."""
    ffn_size: tuple[str, bool]
    """Their field, and whether it may be null for 4 * hidden_size."""
    activation: tuple[str, str]
    """Their field, and its default."""
    norm_eps: str
    """Their field; the default is 1e-5 in all of them."""
    dropouts: tuple[tuple[str, ...], float]
    """Their fields, which we have one value for, and their default."""
    flags: Mapping[str, tuple[str, bool]]
    """Our option -> their field and its default, where both directions may choose."""
    ours_only: Mapping[str, Any]
    """Our option -> the one value that such a model has."""
    theirs_only: Mapping[str, tuple[Any, ...]]
    """Their field -> the values that we can represent, the default first."""
    position_from: Callable[[Mapping[str, Any], int], dict[str, Any]]
    """Their config and head_dim to our `position`."""
    position_to: Callable[[ModelConfig], dict[str, Any]]
    """Our config to their fields of positions."""
    position_field: str
    """Their field to name where our `position` finds something wrong."""
    prefix: str
    """Stands before the name of everything but the head, on disk; files of bare models lack it."""
    head: tuple[str, ...]
    """What the head is called: first as it is written, then as it is also read."""
    buffers: str
    """A pattern of what old files hold besides weights."""
    parts: Mapping[str, Part] = field(default_factory=dict)
    """Our module -> theirs, without the prefix."""

    # ------------------------------------------------------------------ config

    def config_from_hf(self, hf: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of our ModelConfig. Raises UserError, naming the field, for what our model cannot do."""
        for name, allowed in {**NEVER, **self.theirs_only}.items():
            if (value := hf.get(name, allowed[0])) not in allowed:
                raise UserError(f"{name}={value!r} is not supported; only {allowed[0]!r} is")
        fields: dict[str, Any] = {ours: _integer(hf, theirs) for ours, theirs in self.sizes.items()}
        heads, head_dim = fields["num_heads"], fields["hidden_size"] // fields["num_heads"]
        if fields["hidden_size"] % heads:
            raise UserError(
                f"{self.sizes['num_heads']}={heads} does not divide {self.sizes['hidden_size']}={fields['hidden_size']}"
            )
        if (grouped := hf.get("num_key_value_heads")) not in (None, heads):
            raise UserError(f"num_key_value_heads={grouped!r} is not supported; only as many as heads ({heads}) are")
        if (given := hf.get("head_dim")) not in (None, head_dim):
            raise UserError(f"head_dim={given!r} is not supported; only {head_dim}, hidden size by heads, is")
        _check_said_besides(hf)
        name, may_be_null = self.ffn_size
        fields["ffn_size"] = None if may_be_null and hf.get(name) is None else _integer(hf, name)
        fields |= self.ours_only
        fields |= {ours: _boolean(hf, name, default) for ours, (name, default) in self.flags.items()}
        fields["position"] = self.position_from(hf, head_dim)
        fields["activation"] = self._activation_from(hf)
        fields["norm_eps"] = number(hf, self.norm_eps, 1e-5)
        fields["dropout"] = self._dropout_from(hf)
        return fields

    def validated(self, fields: Mapping[str, Any]) -> ModelConfig:
        """ModelConfig of what `config_from_hf` gave, its errors in their names."""
        try:
            return ModelConfig.model_validate(dict(fields))
        except ValidationError as error:
            lines = []
            for found in error.errors():
                problems = (found.get("ctx") or {}).get("problems")
                places = [(p.path, p.message) for p in problems] if problems else [(found["loc"], found["msg"])]
                lines += [f"{self._theirs(str(path[0]))}: {message}" for path, message in places]
            raise UserError("; ".join(lines)) from None

    def config_to_hf(self, config: ModelConfig) -> dict[str, Any]:
        """The fields of a config.json that describe the model, for any version of transformers."""
        dropouts, _ = self.dropouts
        name, may_be_null = self.ffn_size
        return {
            "model_type": self.model_type,
            "architectures": [self.architecture],
            **{theirs: getattr(config, ours) for ours, theirs in self.sizes.items() if ours != "vocab_size"},
            self.sizes["vocab_size"]: config.num_embeddings,
            name: config.ffn_size if may_be_null else config.ffn_width,
            self.activation[0]: ACTIVATIONS_BACK[config.activation],
            self.norm_eps: config.norm_eps,
            **dict.fromkeys(dropouts, config.dropout),
            "tie_word_embeddings": config.tie_embeddings,
            **{theirs: getattr(config, ours) for ours, (theirs, _) in self.flags.items()},
            **self.position_to(config),
            "use_cache": True,
        }

    def obstacles(self, config: ModelConfig) -> list[str]:
        """The options of ours, `model.name=value` and the value needed, that keep it out of this family."""
        return [
            f"model.{name}={_yaml(getattr(config, name))} (needs {_yaml(value)})"
            for name, value in self.ours_only.items()
            if getattr(config, name) != value
        ]

    def _theirs(self, ours: str) -> str:
        known = {**self.sizes, "ffn_size": self.ffn_size[0], "norm_eps": self.norm_eps, "position": self.position_field}
        return known.get(ours, ours)

    def _activation_from(self, hf: Mapping[str, Any]) -> str:
        value = hf.get(*self.activation)
        if not isinstance(value, str) or value not in ACTIVATIONS:
            raise UserError(f"{self.activation[0]}={value!r} is not supported; supported are {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[value]

    def _dropout_from(self, hf: Mapping[str, Any]) -> float:
        names, default = self.dropouts
        values = {name: number(hf, name, default) for name in names}
        if len(set(values.values())) > 1:
            listing = ", ".join(f"{name}={value}" for name, value in values.items())
            raise UserError(f"{listing}: one probability for all is supported; write the one to train with into them")
        return next(iter(values.values()))

    # ------------------------------------------------------------------ weights

    def rules(self, config: ModelConfig) -> list[Rule]:
        """Where each tensor of ours lies in their files, in the model's order."""
        return [self._rule(name) for name in our_shapes(config)]

    def _rule(self, ours: str) -> Rule:
        *path, kind = ours.split(".")
        layer = next((part for part in path if part.isdigit()), "")
        part = self.parts[".".join("{}" if name.isdigit() else name for name in path)]
        names = (f"{name.format(layer)}.{kind}" for name in part.theirs)
        return Rule(ours, tuple(n if path == ["lm_head"] else self.prefix + n for n in names), part.layout)

    def canonical(self, names: Iterable[str]) -> dict[str, str]:
        """The name that we write for a weight -> its name in the file, without the buffers of old files.

        Raises UserError where two stand for the same.
        """
        found: dict[str, str] = {}
        for name in names:
            if re.search(f"({self.buffers})$", name):
                continue
            module, _, kind = name.rpartition(".")
            if module in self.head:
                known = f"{self.head[0]}.{kind}"
            else:
                known = name if name.startswith(self.prefix) else self.prefix + name
            if known in found:
                raise UserError(f"the weights hold both {found[known]!r} and {name!r}, which are the same; drop one")
            found[known] = name
        return found

    def embedding(self) -> str:
        """The written name of the token embedding."""
        return self._rule("embedding.weight").theirs[0]

    def check(self, shapes: Mapping[str, Sequence[int]], names: Mapping[str, str], config: ModelConfig) -> None:
        """That a file holds the weights the config needs: none missing, left over, or of another shape.

        `shapes` are by the names in the file, `names` what `canonical` made of these. Raises UserError, naming the
        tensor.
        """
        found = {known: tuple(shapes[name]) for known, name in names.items()}
        if config.num_layers > len(found):  # before their shapes are computed
            raise UserError(
                f"{self.sizes['num_layers']}={config.num_layers:,}, and there are only {len(found):,} weights; "
                "do they belong to this config?"
            )
        wanted = {name: tuple(shape) for name, shape in their_shapes(self.rules(config), config).items()}
        optional = {f"{self.head[0]}.weight": wanted[self.embedding()]} if config.tie_embeddings else {}
        if missing := [name for name in wanted if name not in found]:
            raise UserError(f"the weights have no {_some(missing)}; do they belong to this config?")
        if extra := sorted(names[name] for name in found.keys() - wanted.keys() - optional.keys()):
            raise UserError(
                f"the weights hold {len(extra)} tensors that the config does not need: {_some(extra)}; "
                "do they belong to this config?"
            )
        for name, shape in (wanted | optional).items():
            if found.get(name, shape) != shape:
                raise UserError(
                    f"{names[name]} has shape {found[name]}, and the config needs {shape}; do they belong together?"
                )


def our_shapes(config: ModelConfig) -> "dict[str, Tensor]":
    """Every weight of our model by name, on the meta device."""
    import torch

    from modelzoo.model.gpt import GPT

    with torch.device("meta"):
        return dict(GPT(config).state_dict())


def their_shapes(rules: Iterable[Rule], config: ModelConfig) -> "dict[str, torch.Size]":
    """Every tensor of theirs by its written name."""
    ours = our_shapes(config)
    return {
        name: tensor.shape
        for rule in rules
        for name, tensor in zip(rule.theirs, rule.layout.to_theirs(ours[rule.ours], config), strict=True)
    }


def number(hf: Mapping[str, Any], name: str, default: float) -> float:
    """A field that is a number, or UserError."""
    value = hf.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UserError(f"{name}={value!r}: expected a number")
    if not abs(value) < LARGEST:  # NaN too, which is JSON to some
        raise UserError(f"{name}={_short(value)}: expected a number between {-LARGEST:g} and {LARGEST:g}")
    return float(value)


def _check_said_besides(hf: Mapping[str, Any]) -> None:
    """Fields that do not describe the model, but keep transformers from loading it where their type is wrong."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        value = hf.get(name)
        ids = value if isinstance(value, list) and name == "eos_token_id" else [value]
        if value is not None and any(not isinstance(id_, int) or isinstance(id_, bool) for id_ in ids):
            raise UserError(f"{name}={_short(value)}: expected the id of a token, a whole number, or null")
    for name in ("dtype", "torch_dtype"):
        value = hf.get(name)
        if value is not None and value not in DTYPES:
            raise UserError(f"{name}={_short(value)}: expected float32, bfloat16, float16 or null")


def _integer(hf: Mapping[str, Any], name: str) -> int:
    if name not in hf:
        raise UserError(f"the config has no field {name!r}")
    value = hf[name]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name}={_short(value)}: expected a whole number of at least 1")
    if value > LARGEST_SIZE:
        raise UserError(f"{name}={_short(value)}: expected a whole number of at most {LARGEST_SIZE:,}")
    return value


def _boolean(hf: Mapping[str, Any], name: str, default: bool) -> bool:
    value = hf.get(name, default)
    if not isinstance(value, bool):
        raise UserError(f"{name}={value!r}: expected true or false")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:20]}… ({len(text)} characters)"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
