"""Runs that are killed, stopped and started again: nothing is lost, and the numbers are those of an undisturbed run."""

import math
import os
import random
import signal
import subprocess
import sys
import time
from itertools import count

import pytest
import torch

from modelzoo.trainer.callbacks.metrics import read_metrics
from modelzoo.trainer.checkpoint import checkpoints_of, read_tensors
from tests.runs import comparable, small_overrides
from tests.trainer import processes

RUN = ["model.dropout=0.1", "trainer.micro_batch_size=2", "callbacks.checkpoint.every_steps=2"]


def series(folder):
    """Every number that is recorded, but for the clock's."""
    (run_dir,) = folder.iterdir()
    records = read_metrics(run_dir / "metrics.jsonl")
    return comparable(records)


def state(folder):
    """All tensors of the newest checkpoint."""
    (run_dir,) = folder.iterdir()
    newest = checkpoints_of(run_dir)[-1]
    return {(name, k): v for name in ("model", "optimizer", "random") for k, v in read_tensors(newest, name).items()}


def assert_same_run(one, other):
    assert series(one) == series(other)
    theirs = state(other)
    assert state(one).keys() == theirs.keys()
    for name, value in state(one).items():
        assert torch.equal(value, theirs[name]), name


def undisturbed(dataset, folder, *overrides, **keywords):
    assert set(processes.codes(processes.start(dataset, folder, [*RUN, *overrides], **keywords))) == {0}
    return folder


def killed_until_done(dataset, folder, overrides, seconds, draw, **keywords):
    """Start the run, kill one of its processes after up to so many `seconds`, and again until it ends by itself."""
    for kills in count():
        running = processes.start(dataset, folder, [*RUN, *overrides], **keywords)
        draw.choice(running).join(draw.uniform(0, seconds * 1.5**kills))
        if all(process.exitcode is None for process in running):
            draw.choice(running).kill()
        found = processes.codes(running)
        if set(found) == {0}:
            return kills
        assert -signal.SIGKILL in found, found
    raise AssertionError


@pytest.mark.parametrize("num_ranks", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_run_that_is_killed_at_any_moment_ends_as_though_it_had_not_been(dataset, tmp_path, num_ranks):
    split = [f"accelerator.replicate={num_ranks}"]
    whole = undisturbed(dataset, tmp_path / "whole", *split, num_ranks=num_ranks)
    draw = random.Random()
    killed_until_done(dataset, tmp_path / "killed", split, 1.0, draw, num_ranks=num_ranks)
    assert_same_run(tmp_path / "killed", whole)


@pytest.mark.long
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_killed_many_times(dataset, tmp_path, num_ranks):
    split = [f"accelerator.shard={num_ranks}", "trainer.max_steps=60", "trainer.bad_updates.policy=rollback"]
    planted = {"batches": (7, 30, 31), "factor": math.inf, "in_gradient": True, "rank": num_ranks - 1}
    whole = undisturbed(dataset, tmp_path / "whole", *split, num_ranks=num_ranks, planted=planted)
    kills = sum(
        killed_until_done(
            dataset, tmp_path / f"killed_{n}", split, 1.0, random.Random(), num_ranks=num_ranks, planted=planted
        )
        for n in range(4)
    )
    assert kills > 4
    for n in range(4):
        assert_same_run(tmp_path / f"killed_{n}", whole)


@pytest.mark.parametrize(
    ("precision", "split"),
    [("fp32", "replicate"), pytest.param("fp16", "shard", marks=pytest.mark.long)],
)
def test_ranks_leave_out_a_batch_that_is_bad_on_one_of_them(dataset, tmp_path, precision, split):
    overrides = [f"accelerator.{split}=2", f"accelerator.precision={precision}", "trainer.max_steps=8"]
    skip, told = [*overrides, "trainer.bad_updates.policy=skip"], [*overrides, "trainer.skip_batches=[[1,1],[4,4]]"]
    planted = {"batches": (1, 4), "rank": 1}
    undisturbed(dataset, tmp_path / "bad", *skip, num_ranks=2, planted=planted)
    undisturbed(dataset, tmp_path / "told", *told, num_ranks=2, planted=planted)
    assert [record.pop("skipped_batches") for record in series(tmp_path / "bad") if "event" in record] == [
        [1, 1],
        [4, 4],
    ]
    (run_dir,) = (tmp_path / "bad").iterdir()
    path = run_dir / "metrics.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "event" not in line))
    assert_same_run(tmp_path / "bad", tmp_path / "told")


@pytest.mark.long
def test_ranks_lower_the_loss_scale_together(dataset, tmp_path):
    overrides = ["accelerator.precision=fp16", "trainer.max_steps=8", "trainer.micro_batch_size=4", "model.dropout=0"]
    planted = {"batches": (2, 3), "in_gradient": True}
    undisturbed(dataset, tmp_path / "one", *overrides, planted=planted)
    for split in ("replicate", "shard"):
        folder = tmp_path / split
        undisturbed(dataset, folder, *overrides, f"accelerator.{split}=2", num_ranks=2, planted={**planted, "rank": 1})
        for key in ("overflows", "loss_scale"):
            numbers = [record[key] for record in series(folder) if key in record]
            assert numbers == [record[key] for record in series(tmp_path / "one") if key in record]
        assert numbers[-1] == 2.0**14
        ours = [record["loss"] for record in series(folder) if "loss" in record]
        assert ours == pytest.approx([r["loss"] for r in series(tmp_path / "one") if "loss" in r], rel=5e-3)


# ---------------------------------------------------------------- the command


@pytest.fixture
def command():
    """Starts `modelzoo train`; what a failed test leaves running is killed."""
    started = []

    def start(*arguments, **keywords):
        started.append(train_command(*arguments, **keywords))
        return started[-1]

    yield start
    for process in started:
        process.kill()  # its children go with it
        process.communicate()


def train_command(dataset, folder, *overrides, torchrun=0):
    launcher = [sys.executable]
    if torchrun:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={torchrun}", "--no-python"]
        launcher += [sys.executable]
    options = [option for option in overrides if option.startswith("-")]
    overrides = [option for option in overrides if not option.startswith("-")]
    arguments = ["train", "gptj_tiny", *options, *small_overrides(dataset, folder), *RUN, *overrides]
    return subprocess.Popen(
        [*launcher, "-c", "from modelzoo.cli.main import main; main()", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def newest_step(folder):
    return max((int(path.name[5:]) for path in folder.glob("*/checkpoints/step_*")), default=0)


def processes_of(folder):
    """Process ids of all that have the folder in their command line, oldest first."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    line = file.read()
            except OSError:
                continue
            if f"output_dir={folder}".encode() in line.split(b"\0"):
                found.append(int(name))
    return sorted(found)


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="finds processes in /proc")


@pytest.mark.long
@needs_proc
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_killed_run_is_started_again_and_ends_as_though_it_had_not_been(dataset, tmp_path, command, num_ranks):
    overrides = ["trainer.max_steps=200", f"accelerator.replicate={num_ranks}"]
    undisturbed(dataset, tmp_path / "whole", *overrides, num_ranks=num_ranks)
    folder = tmp_path / "killed"
    run = command(dataset, folder, "--restarts=1", *overrides)  # four crashes, each after progress
    for kill in range(4):
        before = newest_step(folder)
        wait_for(lambda before=before: newest_step(folder) > before + 4)
        victims = processes_of(folder)
        assert len(victims) == (2 if num_ranks == 1 else 4)  # the supervisor, the launcher, the ranks
        os.kill(victims[-1 - kill % num_ranks], signal.SIGKILL)
        wait_for(lambda victims=victims: len(set(victims) & set(processes_of(folder))) == 1)
    said = run.communicate(timeout=300)[1]
    assert run.returncode == 0, said
    assert said.count("restart 1 of 1") == 4
    assert_same_run(folder, tmp_path / "whole")


@pytest.mark.long
@needs_proc
@pytest.mark.parametrize("options", [["--restarts=3"], []])
def test_nothing_is_left_running_when_the_launcher_is_killed(dataset, tmp_path, command, options):
    overrides = ["trainer.max_steps=100000", "accelerator.replicate=2"]
    run = command(dataset, tmp_path, *options, *overrides)
    wait_for(lambda: newest_step(tmp_path) > 2)
    assert len(processes_of(tmp_path)) == 3 + len(options)
    refused = command(dataset, tmp_path, *options, *overrides)
    assert "another process is training" in refused.communicate(timeout=300)[1]
    assert refused.returncode == 2
    assert run.poll() is None
    run.kill()
    wait_for(lambda: not processes_of(tmp_path), seconds=5)
    again = command(dataset, tmp_path, *overrides)
    before = newest_step(tmp_path)
    wait_for(lambda: newest_step(tmp_path) > before)
    again.send_signal(signal.SIGTERM)
    assert again.wait(timeout=30) == 3


@pytest.mark.long
@needs_proc
@pytest.mark.parametrize("torchrun", [False, True])
@pytest.mark.parametrize("to_one_rank", [False, True])
def test_a_signal_stops_all_ranks_with_a_checkpoint(dataset, tmp_path, command, torchrun, to_one_rank):
    overrides = ["trainer.max_steps=100000", "accelerator.replicate=2", "callbacks.checkpoint.every_steps=100000"]
    run = command(dataset, tmp_path, *overrides, torchrun=2 if torchrun else 0)
    wait_for(lambda: list(tmp_path.glob("*/metrics.jsonl")) and len(series(tmp_path)) > 3)
    target = processes_of(tmp_path)[-1] if to_one_rank else run.pid
    os.kill(target, signal.SIGUSR1 if to_one_rank else signal.SIGTERM)
    started = time.monotonic()
    said = run.communicate(timeout=60)[1]
    assert time.monotonic() - started < 30
    assert torchrun or run.returncode == 3, said  # torchrun has codes of its own
    assert not processes_of(tmp_path)
    assert newest_step(tmp_path) == series(tmp_path)[-1]["step"]


@pytest.mark.long
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_signal_before_the_first_step_ends_the_run_at_once(dataset, tmp_path, command, num_ranks):
    for seconds in (1.0, 2.0, 3.0, 4.0):
        run = command(dataset, tmp_path, "trainer.max_steps=100000", f"accelerator.replicate={num_ranks}")
        time.sleep(seconds)
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=30)[1]
        assert run.returncode == 3, said
        assert "Traceback" not in said
