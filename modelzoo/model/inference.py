"""The forward pass of generation: what `GPT` computes, over a cache, in as few calls as it takes.

At one token a step a small model spends most of its time between the operations, and a call of a module costs as
much as a small product: the weights are taken out of the modules once, and the steps written out. The tests hold
it to `GPT` over every option of the configuration.

Shapes: N new tokens of all rows, D hidden_size, H heads, K head_dim, V vocabulary (num_embeddings).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelzoo.model.block import Block
from modelzoo.model.cache import KVCache
from modelzoo.model.gpt import GPT
from modelzoo.model.lora_layer import effective_weight
from modelzoo.model.weights import Form, Linear, linear_of, shared_factors

_Make = Callable[[Tensor, Tensor | None], Linear]


@dataclass(frozen=True, slots=True)
class _Layer:
    norm_1: Linear
    qkv: Linear
    out: Linear
    norm_2: Linear | None
    """None: the MLP takes what attention takes."""
    fc_in: Linear
    fc_out: Linear


@dataclass(frozen=True, slots=True)
class _Fused:
    """A block whose branches stand beside each other, in two products instead of four."""

    norm: Linear
    into: Linear
    """To queries, keys, values and the MLP's inside, (N, 3 · D + F)."""
    out: Linear
    """From what attention found and the MLP's inside, (N, D + F): the sum of both branches."""


class Inference:
    """A model's weights, made ready for generation. Those that keep their form are shared with the model."""

    def __init__(self, model: GPT, weights: Form = "model", max_rows: int = 1, keep_model: bool = True) -> None:
        """`weights` is the form of all matrices that products read, the head included (`weights.py`). Copies are
        fused where the block allows it. Where the model is not to be kept, it loses each block as that is copied."""
        config, linear = model.config, linear_of(weights, max_rows)
        self.config, self.scaling = config, model.scaling
        blocks, dtype = model.blocks, model.embedding.weight.dtype
        given = blocks if keep_model else (blocks.pop(0) for _ in range(len(blocks)))
        self._layers = [_layer_of(block, linear, weights, dtype) for block in given]  # type: ignore[arg-type]
        self._final_norm = _norm_of(model.final_norm)
        self._embedding = model.embedding.weight
        self._positions = None if model.position_embedding is None else model.position_embedding.weight
        head = model.embedding if model.lm_head is None else model.lm_head
        linear = linear_of(weights, max_rows, reads_prompts=False)
        self._head = linear(_weight_of(head, self._embedding.dtype), getattr(head, "bias", None))
        self._heads, self._head_dim, self._rotate = config.num_heads, config.head_dim, config.position.rotate_
        self._gelu = partial(F.gelu, approximate="tanh" if config.activation == "gelu_tanh" else "none")

    def hidden(self, input_ids: Tensor, cache: KVCache) -> Tensor:
        """The normalised output of the last block, (N, D), for the tokens (N,) that the cache expects."""
        x = F.embedding(input_ids, self._embedding)
        if self._positions is not None:
            x = x + F.embedding(cache.position_ids, self._positions)
        if self.scaling.embed != 1:
            x = x * self.scaling.embed
        for index, layer in enumerate(self._layers):
            if isinstance(layer, _Fused):
                x = self._fused(x, layer, cache, index)
            else:
                x = self._block(x, layer, cache, index)
        return self._final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (N, vocab_size) in fp32: not those of padding rows."""
        scale = self.scaling.logits
        return self._head(hidden if scale == 1 else hidden * scale)[:, : self.config.vocab_size].float()

    def _block(self, x: Tensor, layer: _Layer, cache: KVCache, index: int) -> Tensor:
        parallel, normed = self.config.parallel_residual, layer.norm_1(x)
        attended = layer.out(self._attend(layer.qkv(normed), cache, index))
        if not parallel:
            x = x + attended
        if layer.norm_2 is not None:
            normed = layer.norm_2(x)
        if parallel:
            x = x + attended
        return x + layer.fc_out(self._gelu(layer.fc_in(normed)))

    def _fused(self, x: Tensor, layer: _Fused, cache: KVCache, index: int) -> Tensor:
        both, width = layer.into(layer.norm(x)), 3 * x.shape[1]
        attended = self._attend(both[:, :width], cache, index)
        return x + layer.out(torch.cat((attended, self._gelu(both[:, width:])), dim=1))

    def _attend(self, qkv: Tensor, cache: KVCache, layer: int) -> Tensor:
        """What the queries find, (N, D), from queries, keys and values (N, 3 · D): these are turned in place, and
        keys and values stored."""
        heads, head_dim = self._heads, self._head_dim
        width = heads * head_dim
        by_head = qkv.view(-1, heads, 3, head_dim)  # (N, H, 3, K)
        if cache.factors is not None:
            self._rotate(by_head.narrow(2, 0, 2), cache.factors)
        new = by_head.narrow(2, 1, 2).transpose(1, 2).reshape(-1, head_dim)  # (N · 2 · H, K)
        cache.layers[layer].index_copy_(0, cache.slots, new)
        queries, found = by_head.select(2, 0), []
        for group in cache.groups:
            own = queries if len(cache.groups) == 1 else queries[group.tokens]
            attended = F.scaled_dot_product_attention(
                own.view(group.num_rows, -1, heads, head_dim).transpose(1, 2),  # (G, H, C, K)
                group.keys[layer],
                group.values[layer],
                attn_mask=group.mask,
                is_causal=group.causal,
                scale=self.scaling.attention,
            )
            found.append(attended.transpose(1, 2).reshape(-1, width))
        return found[0] if len(found) == 1 else torch.cat(found)


def _layer_of(block: Block, linear: _Make, form: Form, dtype: torch.dtype) -> _Layer | _Fused:
    attention, mlp = block.attention, block.mlp
    if form != "model" and block.parallel_residual and (shared := _with_one_norm(block, form, dtype)):
        norm, weights, biases = shared
        out = torch.cat((_weight_of(attention.out, dtype), _weight_of(mlp.fc_out, dtype)), dim=1)
        return _Fused(
            norm=norm,
            into=linear(torch.cat(weights), torch.cat(biases)),
            out=linear(out, _bias_of(attention.out, dtype) + _bias_of(mlp.fc_out, dtype)),
        )

    def of(module: nn.Linear) -> Linear:
        return linear(_weight_of(module, dtype), module.bias)

    return _Layer(
        norm_1=_norm_of(block.norm_1),
        qkv=of(attention.qkv),
        out=of(attention.out),
        norm_2=None if block.norm_2 is None else _norm_of(block.norm_2),
        fc_in=of(mlp.fc_in),
        fc_out=of(mlp.fc_out),
    )


def _with_one_norm(block: Block, form: Form, dtype: torch.dtype) -> tuple[Linear, list[Tensor], list[Tensor]] | None:
    """A LayerNorm, and the weights and biases of the two products that then read it, gains and biases worked in where
    the block has two, and for int8, which is the more exact for it. None where that would cost accuracy: bf16 would
    round the weights once more, and int8 may have too few steps for both gains."""
    modules = block.attention.qkv, block.mlp.fc_in
    weights, biases = [_weight_of(each, dtype) for each in modules], [_bias_of(each, dtype) for each in modules]
    norms, factors = (block.norm_1, block.norm_2 or block.norm_1), None
    gains = [norm.weight.detach().to(dtype) for norm in norms]
    if dtype == torch.float32 and form in ("int8", "mixed"):
        factors = shared_factors(weights, gains)
    elif dtype == torch.float32 and block.norm_2 is not None:
        factors = torch.ones_like(gains[0])
    if factors is None:
        return (_norm_of(block.norm_1), weights, biases) if block.norm_2 is None else None
    triples = zip(weights, biases, norms, strict=True)
    biases = [bias + weight @ norm.bias.detach().to(dtype) for weight, bias, norm in triples]
    weights = [weight * (gain / factors) for weight, gain in zip(weights, gains, strict=True)]
    return _norm_of(block.norm_1, factors), weights, biases


def _bias_of(module: nn.Linear, dtype: torch.dtype) -> Tensor:
    return torch.zeros(module.out_features, dtype=dtype) if module.bias is None else module.bias.detach().to(dtype)


def _weight_of(module: nn.Linear | nn.Embedding, dtype: torch.dtype) -> Tensor:
    """The model's own weight; of one in training, its adapter worked in, and in the precision of its embedding."""
    return effective_weight(module).to(dtype).detach()


def _norm_of(module: nn.LayerNorm, factors: Tensor | None = None) -> Linear:
    """Where given, `factors` take the place of its gains and biases."""
    return partial(
        torch.layer_norm,
        normalized_shape=module.normalized_shape,
        weight=module.weight if factors is None else factors,
        bias=module.bias if factors is None else None,
        eps=module.eps,
    )
