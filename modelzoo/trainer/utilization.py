"""How much of a device's arithmetic a run uses: model FLOPs and hardware FLOPs against the vendor's peak.

MFU (model FLOPs utilization, arXiv:2204.02311) counts what the model needs, HFU what the device did, activations that
were computed again included. The peaks are dense ones, of the vendors' data sheets, and of the precision that the run's
matrix products have. A device that is not in the table has none: n/a, never a guess.
"""

import re
from dataclasses import dataclass

Peaks = dict[str, float]
"""Precision (fp32, tf32, bf16, fp16) -> FLOPs a second, in units of 10^12."""


def _tensor(half: float, tf32: float, fp32: float) -> Peaks:
    return {"bf16": half, "fp16": half, "tf32": tf32, "fp32": fp32}


PEAKS: dict[str, Peaks] = {
    # NVIDIA H200 and H100 data sheets: the figures of the tensor cores there are with sparsity, twice these
    r"NVIDIA H200": _tensor(989.4, 494.7, 66.9),
    r"NVIDIA H200 NVL": _tensor(835.5, 417.5, 60.0),
    r"NVIDIA H100 80GB HBM3": _tensor(989.4, 494.7, 66.9),  # SXM5
    r"NVIDIA H100 NVL": _tensor(835.5, 417.5, 60.0),
    r"NVIDIA H100 PCIe": _tensor(756.5, 378.0, 51.2),
    # NVIDIA A100 data sheet, one figure for all of them; A10, L4, L40 and L40S data sheets
    r"(NVIDIA )?A100-(SXM4|PCIE)-[48]0GB|NVIDIA A100 80GB PCIe": _tensor(312.0, 156.0, 19.5),
    r"NVIDIA A10": _tensor(125.0, 62.5, 31.2),
    r"NVIDIA L4": _tensor(121.0, 60.0, 30.3),
    r"NVIDIA L40": _tensor(181.05, 90.5, 90.5),
    r"NVIDIA L40S": _tensor(362.05, 183.0, 91.6),
    # NVIDIA Ada and Ampere GA102 whitepapers: sums in fp32, as cuBLAS takes them
    r"NVIDIA GeForce RTX 4090": _tensor(165.2, 82.6, 82.6),
    r"NVIDIA GeForce RTX 3090": _tensor(71.0, 35.6, 35.6),
    # NVIDIA V100 and T4 data sheets; neither has bf16
    r"(NVIDIA )?(Tesla )?V100-SXM2-(16|32)GB": {"fp16": 125.0, "fp32": 15.7},
    r"(NVIDIA )?(Tesla )?V100-PCIE-(16|32)GB": {"fp16": 112.0, "fp32": 14.0},
    r"(NVIDIA )?(Tesla )?V100S-PCIE-32GB": {"fp16": 130.0, "fp32": 16.4},
    r"(NVIDIA )?(Tesla )?T4": {"fp16": 65.0, "fp32": 8.1},
    # AMD Instinct data sheets. A MI250(X) is two devices to the program: half of the figures there
    r"AMD Instinct MI250": {"bf16": 181.05, "fp16": 181.05, "fp32": 45.25},
    r"AMD Instinct MI250X": {"bf16": 191.5, "fp16": 191.5, "fp32": 47.85},
    r"AMD Instinct MI300X": _tensor(1307.4, 653.7, 163.4),
    # Intel Max data sheet: 1024 engines at 1.6 GHz; a stack, which is a device by default, has half of them
    r"Intel\(R\) Data Center GPU Max 1550, 1024 engines": _tensor(838.9, 419.4, 52.4),
    r"Intel\(R\) Data Center GPU Max 1550, 512 engines": _tensor(419.4, 209.7, 26.2),
}
"""By the whole of the name that torch has for a device, as a pattern: a part of one (MIG) is another device."""


def peak_flops(device_name: str, precision: str) -> float | None:
    """FLOPs a second that a device can do at best; None where the table does not say."""
    for pattern, peaks in PEAKS.items():
        if re.fullmatch(pattern, device_name):
            return peaks[precision] * 1e12 if precision in peaks else None
    return None


@dataclass(frozen=True)
class Utilization:
    """What a token costs, beside what all devices of the run together can do."""

    model_flops_per_token: int
    """Of the forward and the backward pass."""
    hardware_flops_per_token: int
    """And of what is computed again."""
    peak_flops: float | None
    """FLOPs a second of all ranks; None where it is unknown."""

    def of(self, tokens_per_second: float | None) -> dict[str, float | None]:
        """`mfu` and `hfu` as fractions; None where peak or speed are unknown."""
        if self.peak_flops is None or tokens_per_second is None:
            return {"mfu": None, "hfu": None}
        share = tokens_per_second / self.peak_flops
        return {"mfu": share * self.model_flops_per_token, "hfu": share * self.hardware_flops_per_token}
