"""Queries, keys, values and the MLP's input of a block in one product, where they have one input.

That is a parallel residual with one LayerNorm (GPT-J). Two LayerNorms (GPT-NeoX) would have to be folded into the two
weights at every step, and gradients unfolded, at five times the cost of joining the weights; that is not done.

Shapes: B batch, T positions, D hidden_size, F ffn_width.
"""

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelzoo.model.block import Block


def fuse_projections(blocks: Iterable[nn.Module]) -> None:
    """Have each block compute as `_forward`. Parameters, their names and their gradients stay what they are."""
    for block in blocks:
        assert isinstance(block, Block), block
        assert block.parallel_residual, block
        assert block.norm_2 is None, block
        block.forward = partial(_forward, block)  # type: ignore[method-assign]


def _forward(block: Block, x: Tensor, position: Tensor | None, mask: Tensor | None = None) -> Tensor:
    qkv, fc_in = block.attention.qkv, block.mlp.fc_in
    normed = block.norm_1(x)
    dtype = normed.dtype
    if torch.is_autocast_enabled(x.device.type):  # narrow first: what is then joined is half as large
        dtype = torch.get_autocast_dtype(x.device.type)
    weight = torch.cat((qkv.weight.to(dtype), fc_in.weight.to(dtype)))  # (3 D + F, D)
    without = fc_in.bias.new_zeros(len(qkv.weight))  # GPT-J's QKV has no bias
    bias = torch.cat((without if qkv.bias is None else qkv.bias, fc_in.bias)).to(dtype)
    heads, wide = F.linear(normed, weight, bias).split((len(qkv.weight), len(fc_in.weight)), dim=-1)
    return x + (block.attention.attend(heads, position, mask) + block.mlp.narrow(wide))
