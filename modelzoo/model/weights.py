"""Forms of a weight for generation, where reading the weights is most of the work.

| form    | holds                                                                            | device |
|---------|----------------------------------------------------------------------------------|--------|
| model   | the model's own weight                                                           | any    |
| columns | a copy by columns, where the outputs are more than the inputs; else as "model"   | any    |
| float16 | a copy in half precision; inputs and sums stay in fp32                           | CPU    |
| int8    | 8 bits, and a scale for each output; inputs in bf16                              | CPU    |

A copy needs its own memory; who has no use for the model any more drops it after the decoder is made.

Shapes: N tokens, I inputs, O outputs.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Form = Literal["model", "columns", "float16", "int8"]
Linear = Callable[[Tensor], Tensor]
"""(N, I) to (N, O)."""

MAX_FLOAT16 = 65504.0
INT8_INPUTS = 64
"""The int8 product reads inputs by as many (8 with AVX2), and beyond the end where there are fewer: it must not be
given another number of them."""


def linear_of(form: Form) -> Callable[[Tensor, Tensor | None], Linear]:
    """What makes the product of a weight (O, I) and a bias (O,).

    Raises ValueError for a form that does not exist, that this torch lacks, or that does not fit the weight.
    """
    if form not in get_args(Form):
        raise ValueError(f"weights={form!r}: expected {', '.join(get_args(Form))}")
    return {"model": plain, "columns": columns, "float16": float16, "int8": int8}[form]


def plain(weight: Tensor, bias: Tensor | None) -> Linear:
    """The product with the weight as it is.

    CPUs without bf16 instructions multiply bf16 at a fifth of the speed of fp16 (measured with AVX2, 8 rows):
    there a copy in fp16 is used where it holds the same values.
    """
    emulated = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and not _multiplies_bf16()
    if emulated and _has_float16() and torch.equal(weight.half().bfloat16(), weight):
        return float16(weight, bias)
    return partial(F.linear, weight=weight, bias=bias)


def columns(weight: Tensor, bias: Tensor | None) -> Linear:
    """The product with the weight stored by columns, which is read in longer runs: the same to the last rounding.

    Measured for fp32 on one AVX2 core: 1.4 to 2 times as fast for one row where O > I, slower where O < I.
    """
    if weight.shape[0] <= weight.shape[1] or weight.dtype != torch.float32:
        return plain(weight, bias)
    return partial(F.linear, weight=weight.detach().t().contiguous().t(), bias=bias)


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
    """The product with a weight of 8 bits, symmetric about 0, and one scale for each output; the inputs are rounded
    to bf16.

    Of many rows the product is that of the weight put back to fp32, which is the faster from some 16 rows on.
    """
    _check(weight, "int8", hasattr(torch, "_weight_int8pack_mm"), "a torch with _weight_int8pack_mm")
    exact = weight.detach().float()
    scale = (exact.abs().amax(1) / 127).clamp_min(1e-30).bfloat16()  # (O,): as the product will read it
    rounded = (exact / scale.float()[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    padding = -weight.shape[1] % INT8_INPUTS
    rounded = F.pad(rounded, (0, padding))
    return partial(_int8_product, rounded, scale, None if bias is None else bias.detach(), padding)


def _int8_product(weight: Tensor, scale: Tensor, bias: Tensor | None, padding: int, x: Tensor) -> Tensor:
    if padding:
        x = F.pad(x, (0, padding))
    if len(x) > 16:
        return F.linear(x, (weight.float() * scale.float()[:, None]).to(x.dtype), bias)
    product = torch._weight_int8pack_mm(x.bfloat16(), weight, scale).to(x.dtype)
    return product if bias is None else product + bias


def _check(weight: Tensor, form: Form, holds: bool, needed: str) -> None:
    if weight.device.type != "cpu":
        raise ValueError(f"weights={form!r} is for the CPU, and the model is on {weight.device}; use 'model'")
    if not holds:
        raise ValueError(f"weights={form!r} needs {needed}; use 'model'")


def _multiplies_bf16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _has_float16() -> bool:
    return "fbgemm" in torch.backends.quantized.supported_engines and hasattr(
        torch.ops.quantized, "linear_prepack_fp16"
    )
