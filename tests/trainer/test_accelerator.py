"""Devices: what is there is taken, what is lacking is said."""

import pytest
import torch

from modelzoo.base_config import UserError
from modelzoo.trainer import accelerator
from modelzoo.trainer.accelerator import choose_accelerator
from modelzoo.trainer.config import AcceleratorConfig


def choose(**options):
    return choose_accelerator(AcceleratorConfig(device="cpu", **options))


def test_auto_takes_what_torch_finds():
    found = torch.accelerator.current_accelerator(check_available=True)
    expected = found.type if found is not None and found.type in accelerator.LACKS else "cpu"
    assert choose_accelerator(AcceleratorConfig()).device.type == expected


def test_a_device_that_is_not_there_is_an_error_that_names_those_that_are():
    absent = next(d for d in ("xpu", "mps", "cuda") if choose_accelerator(AcceleratorConfig()).device.type != d)
    with pytest.raises(UserError, match=f"accelerator.device={absent}.*there is: cpu"):
        choose_accelerator(AcceleratorConfig(device=absent))


def test_what_is_lacking_is_downgraded_aloud_or_refused(monkeypatch):
    monkeypatch.setitem(accelerator.LACKS, "cpu", {"bf16": "for the test"})
    monkeypatch.setattr(accelerator.shutil, "which", lambda _: None)
    chosen = choose(precision="bf16", compile=True)
    assert (chosen.precision, chosen.compile) == ("fp32", False)
    assert chosen.notes == [
        "bf16 is not to be had on cpu (for the test): fp32 instead",
        "compile is not to be had on cpu (no C++ compiler is installed): not compiled",
    ]
    with pytest.raises(UserError, match="bf16 is not to be had on cpu"):
        choose(precision="bf16", strict=True)
    with pytest.raises(UserError, match="compile is not to be had on cpu"):
        choose(compile=True, strict=True)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_that_of_the_products(precision, dtype):
    chosen = choose(precision=precision)
    with chosen.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert not chosen.gradient_scaler().enabled


def test_the_random_state_comes_back():
    chosen = choose()
    state = chosen.random_state()
    first = torch.rand(3)
    chosen.set_random_state(state)
    assert torch.equal(torch.rand(3), first)
