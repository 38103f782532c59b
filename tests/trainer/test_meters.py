"""The meters against a stop-watch, a FLOP counter, and batches whose hashes are known."""

import json
import math
import resource
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modelzoo.launch import build_run
from modelzoo.trainer import accelerator, step_clock
from modelzoo.trainer.accelerator import Accelerator
from modelzoo.trainer.batch_hash import batch_sha256, chained_sha256
from modelzoo.trainer.callbacks.base import Callback
from modelzoo.trainer.step_clock import ON_DEVICE, PARTS, STEP, WARMUP_STEPS, StepClock
from modelzoo.trainer.utilization import Utilization, peak_flops
from tests.runs import launch, small_config
from tests.trainer.observing import records


class StopWatch:
    """A clock that moves where it is told to, and only there."""

    def __init__(self, monkeypatch):
        self.seconds = 0.0
        monkeypatch.setattr(step_clock, "time", self)

    def perf_counter(self):
        return self.seconds

    def slow(self, target, name, seconds):
        """Have a method take so long."""
        real = getattr(target, name)

        def slowed(*arguments, **keywords):
            self.seconds += seconds
            return real(*arguments, **keywords)

        setattr(target, name, slowed)


# ---------------------------------------------------------------------- the step clock


def test_each_part_of_a_step_is_counted_where_it_belongs(dataset, tmp_path, monkeypatch):
    watch = StopWatch(monkeypatch)
    extra = ["trainer.max_steps=12", "trainer.log_every_steps=4", "trainer.micro_batch_size=2"]
    trainer = launch(small_config(dataset, tmp_path, *extra, "callbacks.checkpoint.every_steps=6"))
    trainer.callbacks["slow"] = Callback()
    watch.slow(trainer.data, "batch", 1.0)
    watch.slow(trainer.model, "loss", 2.0)  # of each of 4 micro-batches, and of each batch of an evaluation
    watch.slow(trainer.optimizer, "step", 3.0)
    watch.slow(trainer.callbacks["checkpoint"], "_save", 50.0)
    watch.slow(trainer.callbacks["slow"], "on_step_end", 0.5)
    watch.slow(trainer, "evaluate", 100.0)
    trainer.model.final_norm.weight.register_hook(lambda _: setattr(watch, "seconds", watch.seconds + 5.0))
    trainer.train()

    by_step = {record["step"]: record for record in records(trainer, "loss")}
    assert sorted(by_step) == [4, 8, 12]
    for record in by_step.values():
        step = {"data": 4.0, "forward": 4 * 4 * 2.0, "backward": 4 * 4 * 5.0, "optimizer": 4 * 3.0}
        assert {part: record[f"{part}_seconds"] for part in STEP} == step
    assert [by_step[step]["other_seconds"] for step in (4, 8, 12)] == [1.5, 2.0, 2.0]  # of the steps before it
    assert [by_step[step]["save_seconds"] for step in (4, 8, 12)] == [0.0, 50.0, 0.0]
    evaluation = by_step[8]["evaluate_seconds"]
    assert evaluation > 100.0
    assert [by_step[step]["evaluate_seconds"] for step in (4, 12)] == [0.0, evaluation]

    (last,) = [record for record in records(trainer, "seconds") if "loss" not in record]
    assert (last["step"], last["evaluate_seconds"], last["save_seconds"]) == (12, evaluation, 50.0)
    everything = [*by_step.values(), last]
    for record in everything:
        assert record["seconds"] == sum(record[f"{part}_seconds"] for part in PARTS)
    assert sum(record["seconds"] for record in everything) == watch.seconds == last["elapsed_seconds"]

    an_update = 1 + 4 * 2 + 4 * 5 + 3
    assert [record["tokens_per_second"] for record in by_step.values()] == [8 * 24 / an_update] * 3
    assert trainer.tokens_per_second == 8 * 24 / an_update


def test_first_updates_are_no_part_of_the_speed(monkeypatch):
    watch = StopWatch(monkeypatch)
    clock = StepClock()
    for step, seconds in enumerate([500, 40, 2, 2, 2]):  # compiles; still tunes its kernels
        with clock.part("forward"):
            watch.seconds += seconds
        clock.step_done(100)
        if step == WARMUP_STEPS - 1:
            assert clock.record()["tokens_per_second"] is None
            assert clock.tokens_per_second is None
    assert clock.record()["tokens_per_second"] == clock.tokens_per_second == 50.0


def test_what_is_inside_a_part_is_taken_off_it(monkeypatch):
    watch = StopWatch(monkeypatch)
    clock = StepClock()
    with clock.part("evaluate"):
        watch.seconds += 1
        with clock.part("other"):
            watch.seconds += 10
        watch.seconds += 1
    numbers = clock.record()
    assert (numbers["evaluate_seconds"], numbers["other_seconds"], numbers["seconds"]) == (2, 10, 12)


def test_a_devices_marks_divide_the_time_that_the_program_waited(monkeypatch):
    """The program runs ahead through forward and backward pass, and waits for the device in the optimizer."""
    watch = StopWatch(monkeypatch)

    class Mark:
        device_milliseconds = 0.0

        def record(self):
            self.at = Mark.device_milliseconds

        def query(self):
            return False

        def elapsed_time(self, end):
            return end.at - self.at

    clock = StepClock(Mark)
    for part, on_host, on_device in (("forward", 0.1, 900), ("backward", 0.1, 1800), ("optimizer", 3.8, 900)):
        with clock.part(part):
            watch.seconds += on_host
            Mark.device_milliseconds += on_device
    with clock.part("save"):
        watch.seconds += 7
    clock.step_done(1)
    numbers = clock.record()
    assert [numbers[f"{part}_seconds"] for part in ON_DEVICE] == pytest.approx([1.0, 2.0, 1.0])
    assert numbers["save_seconds"] == 7
    assert numbers["seconds"] == 11
    assert clock.record()["seconds"] == 0


def test_a_real_stop_watch_agrees_and_a_resumed_run_goes_on_counting(dataset, tmp_path):
    config = small_config(dataset, tmp_path, "trainer.max_steps=6", "schedule=constant")
    trainer = launch(config)
    started = time.perf_counter()
    trainer.train()
    measured = time.perf_counter() - started
    told = [record["seconds"] for record in records(trainer, "seconds")]
    assert len(told) == 6 + 1
    assert 0 <= measured - sum(told) < 0.05 + 0.1 * measured  # closing the files is left
    elapsed = records(trainer, "seconds")[-1]["elapsed_seconds"]
    assert elapsed == pytest.approx(sum(told), abs=1e-4)

    again = launch(small_config(dataset, tmp_path, "trainer.max_steps=8", "schedule=constant"))
    again.train()
    series = [record["elapsed_seconds"] for record in records(again, "loss")]
    assert series == sorted(series)
    saved = json.loads((trainer.run_dir / "checkpoints" / "step_00000006" / "state.json").read_text())
    assert series[6] == pytest.approx(saved["elapsed_seconds"] + records(again, "loss")[6]["seconds"], abs=1e-4)


# ---------------------------------------------------------------------- memory


def test_peak_memory_is_that_of_the_process_and_of_the_largest_rank(dataset, tmp_path):
    held = np.ones(100 * 2**20, dtype=np.uint8)
    peak = Accelerator(torch.device("cpu"), "fp32", False, False).peak_memory_bytes()
    assert held.nbytes < peak
    del held
    assert accelerator._peak_resident_bytes() >= 0.99 * peak  # the system counts in batches
    assert peak <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 * 1.01
    trainer = launch(small_config(dataset, tmp_path, "trainer.max_steps=4"))
    trainer.parallel.any = lambda flag: max(flag, 2**50) if flag > 2**20 else flag  # what another rank has
    trainer.train()
    assert {record["peak_memory_bytes"] for record in records(trainer, "loss")} == {2**50}


# ---------------------------------------------------------------------- FLOPs, MFU, HFU

MAX_1550 = "Intel(R) Data Center GPU Max 1550"
FAMILIES = {
    "gptj": ("gptj_tiny", []),
    "gpt_neox": ("gpt_neox_tiny", []),
    "gpt2_tied": ("gpt2_tiny", ["~model.position.fraction"]),
    "padded": ("gptj_tiny", ["model.padded_vocab_size=384"]),
    "wide_mlp": ("gpt_neox_tiny", ["model.ffn_size=200", "data.seq_len=61"]),
    "dropout": ("gptj_tiny", ["model.dropout=0.1"]),
}


def in_place_flops(total, a, b, **_):
    """Of the product that the head's gradient is summed with."""
    return 2 * a[0] * a[1] * b[1]


def fused_flops(q, k, v, *_, **__):
    """Of attention on the CPU: the scores, and the values that they weigh."""
    return 2 * 2 * math.prod(q) * k[2]


def fused_backward_flops(grad, q, k, v, *_, **__):
    """Twice that; what the kernel itself computes again does not count."""
    return 2 * fused_flops(q, k, v)


class Counter(FlopCounterMode):
    """Knows what torch's own does not."""

    def __init__(self):
        aten = torch.ops.aten
        own = {
            aten.addmm_: in_place_flops,
            aten._scaled_dot_product_flash_attention_for_cpu: fused_flops,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: fused_backward_flops,
        }
        super().__init__(display=False, custom_mapping=own)


CASES = [(family, "none") for family in FAMILIES] + [(family, "full") for family in ("gptj", "gpt2_tied", "dropout")]
CASES.append(("gptj", "selective"))


@pytest.mark.parametrize(("family", "again"), CASES)
def test_flops_are_those_that_an_update_takes(dataset, tmp_path, family, again):
    base, overrides = FAMILIES[family]
    config = small_config(dataset, tmp_path, *overrides, f"accelerator.activation_checkpointing={again}", base=base)
    trainer = build_run(config)
    batch = {key: np.array(value) for key, value in trainer.data.batch(0).items()}
    batch["loss_mask"][:] = True
    trainer.data.batch = lambda step: batch
    with Counter() as counter:
        trainer.update()
    counted = counter.get_total_flops() / batch["labels"].size
    flops = trainer.utilization
    assert counted == pytest.approx(flops.hardware_flops_per_token, rel=0.01)
    assert flops.model_flops_per_token == config.model.flops_per_token(config.data.seq_len)
    assert (flops.model_flops_per_token < flops.hardware_flops_per_token) == (again == "full")


def test_recomputed_flops_would_show_a_mistake_of_a_percent(dataset, tmp_path):
    """The 1 % above is less than any single product of the smallest part."""
    config = small_config(dataset, tmp_path).model
    width, layers = config.hidden_size, config.num_layers
    smallest = min(2 * width * width, 2 * 24 * width)
    assert layers * smallest > 0.01 * config.flops_per_token(24)


def test_a_forward_pass_is_a_third(dataset, tmp_path):
    model = build_run(small_config(dataset, tmp_path)).model
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(torch.zeros(2, 24, dtype=torch.long))
    assert 3 * counter.get_total_flops() == 2 * 24 * model.config.flops_per_token(24)


def test_a_devices_peak_is_looked_up_by_its_whole_name_and_the_precision_used(monkeypatch):
    found = {"cuda": SimpleNamespace(name="NVIDIA H200"), "xpu": SimpleNamespace(name=MAX_1550, gpu_eu_count=512)}
    module = lambda device: SimpleNamespace(get_device_properties=lambda device: found[device.type])  # noqa: E731
    monkeypatch.setattr(torch, "get_device_module", module)

    def peak(device, precision):
        return Accelerator(torch.device(device), precision, False, False).peak_flops

    assert peak("cuda", "bf16") == pytest.approx(989.4e12)
    assert peak("cuda", "fp32") == pytest.approx(66.9e12)
    assert peak("xpu", "bf16") == pytest.approx(419.4e12)
    assert peak("cpu", "bf16") is None
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert peak("cuda", "fp32") == pytest.approx(494.7e12)
    assert peak("cuda", "bf16") == pytest.approx(989.4e12)
    found["cuda"].name = "NVIDIA H200 MIG 1g.18gb"
    assert peak("cuda", "bf16") is None


@pytest.mark.parametrize(
    ("name", "precision", "tera"),
    [
        ("NVIDIA H200", "bf16", 989.4),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA H100 PCIe", "fp16", 756.5),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA A100-SXM4-80GB", "fp32", 19.5),
        ("A100-SXM4-40GB", "tf32", 156.0),
        ("NVIDIA A100 80GB PCIe", "bf16", 312.0),
        ("NVIDIA L40S", "bf16", 362.05),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("Tesla V100-SXM2-16GB", "fp16", 125.0),
        ("Tesla T4", "fp32", 8.1),
        ("AMD Instinct MI300X", "bf16", 1307.4),
        ("Intel(R) Data Center GPU Max 1550, 512 engines", "bf16", 419.4),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bf16", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA A10G", "bf16", None),
        ("NVIDIA Something New", "bf16", None),
        ("cpu", "fp32", None),
    ],
)
def test_peaks_are_the_data_sheets_or_unknown(name, precision, tera):
    assert peak_flops(name, precision) == (None if tera is None else pytest.approx(tera * 1e12))


def test_mfu_is_a_share_of_all_ranks_peaks_and_hfu_counts_more():
    of = Utilization(6 * 10**9, 8 * 10**9, 4 * 100e12).of(10_000)
    assert of == {"mfu": pytest.approx(0.15), "hfu": pytest.approx(0.20)}
    assert Utilization(6, 8, None).of(10_000) == {"mfu": None, "hfu": None}
    assert Utilization(6, 8, 1e12).of(None) == {"mfu": None, "hfu": None}


def test_mfu_in_a_record_is_that_of_its_speed(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Accelerator, "peak_flops", 1e9)
    trainer = launch(small_config(dataset, tmp_path, "accelerator.activation_checkpointing=full"))
    trainer.train()
    for record in records(trainer, "loss"):
        if record["step"] <= WARMUP_STEPS:
            assert record["mfu"] is None
        else:
            flops = record["tokens_per_second"] * trainer.model.config.flops_per_token(24)
            assert record["mfu"] == pytest.approx(flops / 1e9)
            assert record["mfu"] < record["hfu"] < 4 / 3 * record["mfu"]


def test_on_a_cpu_mfu_is_null_and_never_a_guess(dataset, tmp_path, capsys):
    trainer = launch(small_config(dataset, tmp_path, "trainer.max_steps=4"))
    trainer.train()
    assert all(record["mfu"] is None and record["hfu"] is None for record in records(trainer, "loss"))
    assert "MFU n/a" in capsys.readouterr().err


# ---------------------------------------------------------------------- batches


def chain(trainer):
    return [(record["batch_sha256"], record["batches_sha256"]) for record in records(trainer, "loss")]


def test_the_hashes_are_of_the_batches_and_survive_a_stop(dataset, tmp_path):
    whole = launch(small_config(dataset, tmp_path / "whole", "schedule=constant", "trainer.max_steps=9"))
    whole.train()
    expected, link = [], ""
    for step in range(9):
        own = batch_sha256(whole.data.batch(step))
        link = chained_sha256(link, own)
        expected.append((own, link))
    assert chain(whole) == expected
    assert len({own for own, _ in expected}) == 9

    launch(small_config(dataset, tmp_path / "parts", "schedule=constant", "trainer.max_steps=4")).train()
    cut = ["schedule=constant", "trainer.max_steps=9", "trainer.micro_batch_size=2", "trainer.log_every_steps=9"]
    parts = launch(small_config(dataset, tmp_path / "parts", *cut))
    assert parts.step == 4
    parts.train()
    assert chain(parts)[-1] == expected[-1]
    other = launch(small_config(dataset, tmp_path / "other", "trainer.max_steps=9", "seed=1"))
    other.train()
    assert chain(other)[-1] != expected[-1]


def test_a_batch_that_did_not_reach_the_weights_is_not_in_the_chain(dataset, tmp_path):
    trainer = launch(small_config(dataset, tmp_path))
    trainer.update()
    before = dict(trainer.batches)
    loss = trainer.model.loss
    trainer.model.loss = lambda **part: (loss(**part)[0] * math.nan, 1)
    with pytest.raises(RuntimeError):
        trainer.update()
    assert trainer.batches == before


def test_a_hash_knows_every_value_and_no_type():
    batch = {
        "input_ids": np.arange(12).reshape(3, 4),
        "labels": np.arange(1, 13).reshape(3, 4),
        "loss_mask": np.ones((3, 4), dtype=bool),
    }
    same = {key: value.astype(np.int32) if key != "loss_mask" else value.copy() for key, value in batch.items()}
    strided = {key: np.asfortranarray(value) for key, value in reversed(batch.items())}
    assert batch_sha256(batch) == batch_sha256(same) == batch_sha256(strided)
    others = [{**batch, "position_ids": batch["labels"]}, {**batch, "labels": batch["labels"].reshape(4, 3)}]
    for key in batch:
        changed = batch[key].copy()
        changed[2, 3] = 0
        others.append({**batch, key: changed})
    assert len({batch_sha256(other) for other in [batch, *others]}) == 6
