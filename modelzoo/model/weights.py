"""Forms of a weight for generation, where reading the weights is most of the work.

| form    | holds                                                                                   | device |
|---------|-----------------------------------------------------------------------------------------|--------|
| model   | the model's own weight                                                                  | any    |
| packed  | copies laid out for the products of one row and of several: the same to the last        | CPU    |
|         | rounding. bf16 becomes fp16 where the CPU has no bf16 instructions                      |        |
| float16 | a copy in half precision; inputs and sums stay in fp32                                  | CPU    |
| int8    | 8 bits, and a scale for each output; inputs keep 13 bits                                | CPU    |
| mixed   | int8 for a few rows, and float16 for more, as prompts have them                         | CPU    |

A copy needs its own memory; who has no use for the model any more drops it after the decoder is made.

Shapes: N tokens, I inputs, O outputs.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Form = Literal["model", "packed", "float16", "int8", "mixed"]
Linear = Callable[[Tensor], Tensor]
"""(N, I) to (N, O)."""

BLOCKED_ROWS = 8
"""oneDNN's layout for 8 rows serves from 2 on; that for one row is slow with more (measured with AVX2)."""
BLOCKED_WEIGHTS = 2**19
"""From so many values on the blocked layout is the faster one for several rows."""
MAX_FLOAT16 = 65504.0
INT8_INPUTS = 64
"""torch's own int8 product reads inputs by as many, and beyond the end where there are fewer: it must not be given
another number of them."""
INT8_ROWS = 8
"""Up to so many the int8 product is as fast as that in fp16, or faster; prompts take it 1.4 times as long (AVX2)."""
INT8_BLOCK = 128
"""Rows at a time: what lies between inputs and outputs stays in the cache, and its memory is used again."""
INT8_EVENING = 0.75
"""The power of the columns' sizes that `shared_factors` takes over: 1 was up to a quarter worse, 0.5 a half."""
INT8_MARGIN = 0.1
"""By how much one product of two weights may raise the error of either."""
_STEPS, _FINER = torch.tensor(63.0), torch.tensor(126.0)
"""Of int8's inputs; numbers would be made tensors at each call, which costs more than the product with them."""


def linear_of(form: Form, max_rows: int = 1, reads_prompts: bool = True) -> Callable[[Tensor, Tensor | None], Linear]:
    """What makes the product of a weight (O, I) and a bias (O,), for up to `max_rows` texts of one new token each and,
    unless told otherwise, for prompts of any length.

    Raises ValueError for a form that does not exist, that this torch lacks, or that does not fit the weight.
    """
    if form not in get_args(Form):
        raise ValueError(f"weights={form!r}: expected {', '.join(get_args(Form))}")
    if form == "packed":
        return partial(packed, max_rows=max_rows)
    if form == "mixed" and not reads_prompts and max_rows <= INT8_ROWS:
        return int8
    return {"model": plain, "float16": float16, "int8": int8, "mixed": mixed}[form]


def plain(weight: Tensor, bias: Tensor | None) -> Linear:
    """The product with the weight as it is."""
    return partial(F.linear, weight=weight, bias=bias)


def packed(weight: Tensor, bias: Tensor | None, max_rows: int = 1) -> Linear:
    """The product with copies of the weight as it is read fastest: by columns for one row, in oneDNN's blocks for
    several. Where `max_rows` is 1 there is no second copy; prompts are then read with the first.

    Measured for fp32 on one AVX2 core: one row by columns 1.4 to 2 times as fast where O > I, slower where O < I;
    several rows in blocks 1.2 to 2 times, one 0.7 times.
    """
    _check(weight, "packed", True, "")
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if weight.dtype == torch.bfloat16:
        return _blocked(weight, bias) if multiplies_bf16() else _widened(weight, bias, max_rows)
    if weight.dtype != torch.float32:
        return plain(weight, bias)
    by_columns = weight.t().contiguous().t() if weight.shape[0] > weight.shape[1] else weight
    single = plain(by_columns, bias)
    if max_rows == 1 or weight.numel() < BLOCKED_WEIGHTS or not _has_blocks():
        return single
    several = _blocked(weight, bias)
    return lambda x: single(x) if x.shape[0] == 1 else several(x)


def _blocked(weight: Tensor, bias: Tensor | None) -> Linear:
    blocks = torch.ops.mkldnn._reorder_linear_weight(weight, BLOCKED_ROWS)
    product = torch.ops.mkldnn._linear_pointwise
    return lambda x: product(x, blocks, bias, "none", [], "")


def _widened(weight: Tensor, bias: Tensor | None, max_rows: int) -> Linear:
    """A bf16 weight for a CPU that would have to emulate it, at a fifth of the speed of fp16 (AVX2, 8 rows). fp16
    holds bf16 but for its range: what it rounds of tiny values must be far below bf16's own rounding (2^-9)."""
    wide = weight.float()
    if _fits_float16(wide, 2**-12):
        return float16(weight, bias)
    product = packed(wide, None if bias is None else bias.float(), max_rows)
    return lambda x: product(x.float()).to(x.dtype)


def float16(weight: Tensor, bias: Tensor | None) -> Linear:
    """The product with the weight rounded to fp16; inputs and sums in fp32."""
    _check(weight, "float16", _has_float16(), "a torch built with FBGEMM")
    largest = float(weight.detach().abs().max())
    _check(weight, "float16", largest <= MAX_FLOAT16, f"weights up to {MAX_FLOAT16:.0f} (found {largest:g})")
    product = torch.ops.quantized.linear_dynamic_fp16
    in_half = torch.ops.quantized.linear_prepack_fp16(
        weight.detach().float(), None if bias is None else bias.detach().float()
    )
    if weight.dtype == torch.float32:
        return lambda x: product(x, in_half)
    return lambda x: product(x.float(), in_half).to(x.dtype)


def int8(weight: Tensor, bias: Tensor | None) -> Linear:
    """The product with a weight of 8 bits, symmetric about 0, and one scale for each output.

    FBGEMM multiplies integers only, and 7 bits of inputs would cost more than the 8 of the weights: each row of
    inputs is given twice, rounded to 7 bits and what that left, again in 7 bits. A second row is next to free where
    reading the weights is the work. Sums are exact, so a row does not depend on the others.
    """
    _check(weight, "int8", hasattr(torch, "_weight_int8pack_mm"), "a torch with _weight_int8pack_mm")
    exact = weight.detach().float()
    bias = None if bias is None else bias.detach()
    scale = (_largest(exact) / 127).clamp_min(1e-30)  # (O,)
    if not _has_int8():
        scale = scale.bfloat16()
        return _int8_of_torch(_rounded(exact, scale.float()), scale, bias)
    rounded, zeros = _rounded(exact, scale), torch.zeros(len(scale), dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantized tensors are on their way out of torch: see _has_int8
        quantized = torch._make_per_channel_quantized_tensor(rounded, scale.double(), zeros, 0)
    return partial(_int8_product, torch.ops.quantized.linear_prepack(quantized, None), bias)


def mixed(weight: Tensor, bias: Tensor | None) -> Linear:
    """int8 for up to `INT8_ROWS` rows, float16 for more; int8 alone where float16 cannot be."""
    few = int8(weight, bias)
    if not _fits_float16(weight.detach().float(), 2**-10):  # 11 bits round by less
        return few
    many = float16(weight, bias)
    return lambda x: few(x) if x.shape[0] <= INT8_ROWS else many(x)


def _largest(weight: Tensor) -> Tensor:
    """The largest magnitude of each output, (O,), without a copy of the weight."""
    return torch.linalg.vector_norm(weight, torch.inf, 1)


def _rounded(weight: Tensor, scale: Tensor) -> Tensor:
    return (weight / scale[:, None]).round_().clamp_(-127, 127).to(torch.int8)


def shared_factors(weights: Sequence[Tensor], gains: Sequence[Tensor]) -> Tensor | None:
    """Factors (I,) for inputs (N, I) that come to each weight (O, I) with gains (I,) of its own: with these in place
    of the gains, and the weights times gains over factors, one int8 product serves all.

    None where that costs a weight more than `INT8_MARGIN` of its accuracy (gains that have little in common), by the
    error of its outputs for inputs of equal spread before the gains. Of the columns' sizes the factors take over
    what leaves about equal steps to weights and inputs (SmoothQuant, arXiv 2211.10438).
    """
    folded = [(weight * gain).float() for weight, gain in zip(weights, gains, strict=True)]
    shares = [weight.square().mean(0) / weight.square().mean().clamp_min(1e-30) for weight in folded]  # (I,) each
    factors = torch.stack(shares).sum(0).clamp_min(1e-12).pow(INT8_EVENING / 2)

    def loss(weight: Tensor, factors: Tensor) -> float:
        return float(factors.square().sum() * _largest(weight).square().sum())

    for weight, gain, whole in zip(weights, gains, folded, strict=True):
        if loss(whole / factors, factors) > (1 + INT8_MARGIN) ** 2 * loss(weight.float(), gain.float()):
            return None
    return factors


def _int8_product(weight: Any, bias: Tensor | None, x: Tensor) -> Tensor:
    if x.shape[0] > INT8_BLOCK:
        return torch.cat([_int8_product(weight, bias, block) for block in x.split(INT8_BLOCK)])
    x_fp32 = x.float()
    unit = x_fp32.abs().amax(1, True).clamp_min_(1e-30).div_(_STEPS)  # (N, 1)
    exact = x_fp32 / unit  # -63 … 63: two products of 7 and 8 bits fit the 16 in which AVX2 adds them
    rounded = exact.round()
    rest = exact.sub_(rounded).mul_(_FINER)
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    coarse, fine = multiply(torch.cat((rounded, rest)), 1.0, 64, weight).chunk(2)  # (N, O) each
    product = torch.add(coarse, fine, alpha=1 / 126)
    return (product.mul_(unit) if bias is None else torch.addcmul(bias, product, unit)).to(x.dtype)


def _int8_of_torch(rounded: Tensor, scale: Tensor, bias: Tensor | None) -> Linear:
    """Without FBGEMM: the inputs are rounded to bf16."""
    padding = -rounded.shape[1] % INT8_INPUTS
    rounded = F.pad(rounded, (0, padding))

    def product(x: Tensor) -> Tensor:
        found = torch._weight_int8pack_mm(F.pad(x, (0, padding)).bfloat16(), rounded, scale).to(x.dtype)
        return found if bias is None else found + bias

    return product


def _check(weight: Tensor, form: Form, holds: bool, needed: str) -> None:
    if weight.device.type != "cpu":
        raise ValueError(f"weights={form!r} is for the CPU, and the model is on {weight.device}; use 'model'")
    if not holds:
        raise ValueError(f"weights={form!r} needs {needed}; use 'model'")


def multiplies_bf16() -> bool:
    """Whether the CPU has instructions for products in bf16, and this torch uses them."""
    return _has_blocks() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _has_blocks() -> bool:
    return torch.backends.mkldnn.is_available() and "AVX" in torch.backends.cpu.get_cpu_capability()


def _fits_float16(weight: Tensor, error: float) -> bool:
    """Whether fp16 rounds an fp32 weight by no more than this share of its norm: neither too large nor too small."""
    return _has_float16() and bool((weight.half().float() - weight).norm() <= error * weight.norm())


def _has_float16() -> bool:
    return _has_fbgemm() and hasattr(torch.ops.quantized, "linear_prepack_fp16")


def _has_int8() -> bool:
    has_product = hasattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32")
    return _has_fbgemm() and has_product and hasattr(torch, "_make_per_channel_quantized_tensor")


def _has_fbgemm() -> bool:
    return "fbgemm" in torch.backends.quantized.supported_engines
