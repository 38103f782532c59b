"""What every optimizer's config is, and the parameter groups that account for every parameter."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from modelzoo.base_config import Config, FromList, Problem
from modelzoo.optimizer.patterns import matches, matching, no_match

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

Patterns = Annotated[tuple[str, ...], FromList]


class OptimizerConfig(Config):
    """Peak learning rate and weight decay; the schedule multiplies the former at every step.

    Patterns name parameters, or modules that hold them, with `*`, `?` and `[0-3]`: `embedding`, `blocks.[0-3]`,
    `blocks.*.norm_?`. One that matches nothing is an error.
    """

    lr: Annotated[float, Field(gt=0, le=1)]
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Decoupled weight decay of matrices and embeddings; biases and norms have none. Where muP divides the rate of a
    matrix by m, its decay is multiplied by m."""
    no_weight_decay: Patterns = ()
    """Patterns of further parameters without weight decay."""
    frozen: Patterns = ()
    """Patterns of parameters, or of modules that hold them, that stay as they are: no gradient, no optimizer state.
    E.g. `[embedding, "blocks.[0-3]", "blocks.*.norm_?"]`; `*` spans dots, and a pattern that matches nothing is an
    error. Where the embedding is the head too (model.tie_embeddings), `embedding` freezes both."""
    layerwise_lr_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer learns at this fraction of the next one's rate: the head at 1, the last block at d, the first of L at
    d^L, the embeddings at d^(L + 1) (Clark et al. 2020, arXiv:2003.10555; Howard and Ruder 2018)."""
    lr_scale: dict[str, Annotated[float, Field(gt=0, le=1000)] | None] = {}  # noqa: RUF012 (pydantic copies defaults)
    """Pattern: what multiplies the rate of the parameters it matches, on top of layerwise_lr_decay and muP; null drops
    one that an included file brings. As decay takes lr · weight_decay of a weight at each step, it takes less where
    these two make the rate lower."""

    @property
    def state_bytes_per_parameter(self) -> int:
        """Bytes of optimizer state for each trained parameter."""
        raise NotImplementedError

    def build(self, groups: list[dict[str, Any]], fused: bool) -> "Optimizer":
        """The optimizer over `parameter_groups(...)`; `fused` where the device has such a kernel."""
        raise NotImplementedError

    @property
    def scales(self) -> dict[str, float]:
        """`lr_scale` without what was dropped."""
        return {pattern: scale for pattern, scale in self.lr_scale.items() if scale is not None}

    @property
    def patterns(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Every pattern, with the path of its key in this section."""
        return [
            *((("frozen", index), pattern) for index, pattern in enumerate(self.frozen)),
            *((("no_weight_decay", index), pattern) for index, pattern in enumerate(self.no_weight_decay)),
            *((("lr_scale", pattern), pattern) for pattern in self.scales),
        ]

    def is_frozen(self, name: str) -> bool:
        """Whether a parameter stays as it is."""
        return any(matches(pattern, name) for pattern in self.frozen)

    def lr_factors(self, depths: Mapping[str, int]) -> dict[str, float]:
        """What multiplies the rate of each parameter, muP apart. `depths` is the layer it acts in; the head is last."""
        last = max(depths.values(), default=0)
        return {
            name: self.layerwise_lr_decay ** (last - depth)
            * next((scale for pattern, scale in self.scales.items() if matches(pattern, name)), 1.0)
            for name, depth in depths.items()
        }

    def groups(
        self,
        named_parameters: Iterable[tuple[str, "nn.Parameter"]],
        lr_multipliers: Mapping[str, float],
        depths: Mapping[str, int],
    ) -> list[dict[str, Any]]:
        """`parameter_groups` with all that this section says."""
        undecayed = matching(self.no_weight_decay, depths)
        return parameter_groups(
            named_parameters, self.lr, self.weight_decay, lr_multipliers, self.lr_factors(depths), undecayed
        )

    def problems_in_model(self, names: Sequence[str], tied: bool) -> Iterator[Problem]:
        """What does not fit a model with parameters of these names; `tied`: its embedding is the head.

        Paths are relative to the optimizer's section.
        """
        for path, pattern in self.patterns:
            matched = matching([pattern], names)
            if not matched:
                yield Problem(path, no_match(pattern, names, tied))
            elif path[0] != "frozen" and all(map(self.is_frozen, matched)):
                yield Problem(path, "has no effect: all that it matches is frozen; drop one of the two")
        if names and all(map(self.is_frozen, names)):
            yield Problem(("frozen",), "freezes every parameter, so that nothing is left to train; drop a pattern")
        for name in names:
            found = [pattern for pattern in self.scales if matches(pattern, name)]
            if len(found) > 1:
                yield Problem(
                    ("lr_scale", found[1]),
                    f"matches {name}, as {found[0]} does; which of the two holds? Write patterns that share nothing",
                )
                break


def parameter_groups(
    named_parameters: Iterable[tuple[str, "nn.Parameter"]],
    lr: float,
    weight_decay: float,
    lr_multipliers: Mapping[str, float],
    lr_factors: Mapping[str, float] | None = None,
    undecayed: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Groups with equal learning rate and weight decay; each trainable parameter is in exactly one.

    Vectors (biases, norm gains) are not decayed, nor is what `undecayed` names; other matrices and embeddings are.
    `lr_multipliers` maps every parameter's name to the factor its parametrisation wants (muP; 1 otherwise). Where it
    is not 1 the decay is divided by it: decoupled decay takes lr · weight_decay of a weight at each step, and that
    share is to be the same at every width, as in Yang's `mup` package (and Wang and Aitchison 2024,
    arXiv:2405.13698). `lr_factors` are wanted by the user and leave the decay alone: a part that learns at a tenth of
    the rate is drawn to zero at a tenth of it too, as everywhere with layer-wise rates. A group holds `params`,
    `names` in the same order, `lr`, `weight_decay`, and `peak_lr`, which the schedule scales.
    """
    groups: dict[tuple[float, float, int], dict[str, Any]] = {}
    seen: set[int] = set()
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        assert id(parameter) not in seen, f"{name} is listed twice"
        seen.add(id(parameter))
        multiplier = lr_multipliers[name]
        peak = lr * multiplier * (1.0 if lr_factors is None else lr_factors[name])
        decay = weight_decay / multiplier if parameter.ndim >= 2 and name not in undecayed else 0.0
        spread = getattr(parameter, "device_mesh", None)  # a kernel takes parameters of one mesh of ranks at a time
        group = groups.setdefault(
            (peak, decay, 0 if spread is None else spread.ndim),
            {"params": [], "names": [], "lr": peak, "peak_lr": peak, "weight_decay": decay},
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())
