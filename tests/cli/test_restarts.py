"""Processes that are watched over: started again after a crash, ended together, and never left alone."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from modelzoo.base_config import UserError
from modelzoo.cli import child_process, ranks, restarts, train

WATCHED = "from modelzoo.cli.child_process import end_with_parent; end_with_parent()\n"


@pytest.fixture
def program(monkeypatch):
    """Sets what a started process does, instead of `modelzoo`; it takes a twentieth of a second to start."""
    monkeypatch.setattr(restarts, "FIRST_PAUSE_SECONDS", 0.01)
    return lambda text: monkeypatch.setattr(child_process, "START", text)


def in_turn(folder, *codes):
    """A program that ends with one code after the other; one below 0 is a signal."""
    return (
        "import os, pathlib, sys\n"
        f"counter = pathlib.Path({str(folder / 'count')!r})\n"
        "turn = len(counter.read_text()) if counter.exists() else 0\n"
        "counter.write_text('x' * (turn + 1))\n"
        f"code = {list(codes)!r}[turn]\n"
        "os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)"
    )


@pytest.mark.parametrize(
    ("codes", "restarts_", "expected", "starts"),
    [
        ([0], 2, 0, 1),
        ([2], 2, 2, 1),
        ([3], 2, 3, 1),
        ([1, -9, 0], 2, 0, 3),
        ([-11, 3], 2, 3, 2),
        ([1, 1, 1, 0], 2, 1, 3),
        ([-9, -9, 0], 1, 1, 2),
    ],
)
def test_what_crashes_is_started_again_and_nothing_else(tmp_path, program, capsys, codes, restarts_, expected, starts):
    program(in_turn(tmp_path, *codes))
    assert restarts.supervise([], restarts_, tmp_path) == expected
    assert len((tmp_path / "count").read_text()) == starts
    said = capsys.readouterr().err
    assert said.count("in 0.0") == starts - 1
    assert ("it is not started again after" in said) == (expected == 1)
    assert ("SIGKILL (by the system" in said) == (-9 in codes)


def test_a_new_checkpoint_lets_the_count_begin_anew(tmp_path, program):
    made = f"import os; os.makedirs({str(tmp_path)!r} + f'/checkpoints/step_{{turn + 1:08d}}') if turn < 4 else 0\n"
    text = in_turn(tmp_path, *[1] * 9).replace("code = ", made + "code = ")
    program(text)
    assert restarts.supervise([], 2, tmp_path) == 1
    assert len((tmp_path / "count").read_text()) == 4 + 2  # four with progress, the last of them counts, two more


@pytest.mark.parametrize("ready", [True, False])
def test_a_signal_goes_on_to_the_run_and_ends_all(tmp_path, program, ready):
    """Also one that comes before the run can handle it."""
    handler = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))" if ready else "pass"
    started = tmp_path / "started"
    program(f"import signal, sys, time\n{handler}\nopen({str(started)!r}, 'w').close()\ntime.sleep(60)")

    def stop():
        while not started.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert restarts.supervise([], 5, tmp_path) == 3


def test_a_signal_between_two_restarts_ends_it(tmp_path, program, monkeypatch):
    monkeypatch.setattr(restarts, "FIRST_PAUSE_SECONDS", 60.0)
    program("raise SystemExit(1)")
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    timer.start()
    assert restarts.supervise([], 5, tmp_path) == 3
    timer.join()


def test_a_rank_of_torchrun_does_not_supervise(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="have torchrun restart them"):
        train._supervise("gptj_tiny", [], 1)


# ---------------------------------------------------------------- ranks


def of_rank(rank_0, rank_1):
    """A program of two ranks."""
    return f"import os, signal, sys, time\nif os.environ['RANK'] == '0':\n    {rank_0}\nelse:\n    {rank_1}"


SLEEP, KILL = "time.sleep(60)", "os.kill(os.getpid(), 9)"


@pytest.mark.parametrize(
    ("rank_0", "rank_1", "expected"),
    [
        ("sys.exit(0)", "sys.exit(0)", 0),
        ("sys.exit(3)", "sys.exit(3)", 3),
        (SLEEP, KILL, 1),
        (KILL, SLEEP, 1),
        (SLEEP, "sys.exit(1)", 1),
        (SLEEP, "sys.exit(2)", 2),
        ("signal.signal(15, lambda *_: sys.exit(3)); time.sleep(60)", KILL, 1),  # a crash, though the other stopped
        ("sys.exit(3)", SLEEP, 3),
        ("time.sleep(0.3); sys.exit(1)", "sys.exit(3)", 3),  # as one does whose peer has gone
    ],
)
def test_ranks_end_together(program, monkeypatch, capfd, rank_0, rank_1, expected):
    monkeypatch.setattr(ranks, "PROMPT_SECONDS", 0.5)
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 5.0)
    program(of_rank(rank_0, rank_1))
    started = time.monotonic()
    assert ranks.run_ranks([], 2) == expected
    assert time.monotonic() - started < 4
    if KILL in (rank_0, rank_1):
        assert f"rank {int(rank_1 == KILL)} has ended with SIGKILL" in capfd.readouterr().err


# ---------------------------------------------------------------- orphans


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat") as file:  # one that nobody waits for is dead too
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return True


@pytest.mark.parametrize("watched", [True, False])
def test_a_child_ends_when_its_parent_is_killed(tmp_path, watched):
    """And its children with it; without the pipe they would live on."""
    sleep = (WATCHED if watched else "") + "import time; time.sleep(60)"
    middle = (WATCHED if watched else "") + (
        "import os, sys, time\nfrom modelzoo.cli import child_process\n"
        f"child_process.START = {sleep!r}\nchild = child_process.start([], {{}})\n"
        f"open({str(tmp_path / 'pids.partial')!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        f"os.rename({str(tmp_path / 'pids.partial')!r}, {str(tmp_path / 'pids')!r})\ntime.sleep(60)"
    )
    top = (
        "import time\nfrom modelzoo.cli import child_process\n"
        f"child_process.START = {middle!r}\nchild_process.start([], {{}})\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", top])
    deadline = time.monotonic() + 30
    while not (tmp_path / "pids").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    time.sleep(0.5)  # for the last one to be watched
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + (10 if watched else 0.5)
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [is_alive(pid) for pid in pids] == [not watched] * 2
    if not watched:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(("last", "code"), [("ranks.leave(3)", 3), ("sys.exit(3)", -signal.SIGABRT)])
def test_a_rank_ends_though_taking_the_interpreter_apart_would_abort(last, code):
    program = f"""
import atexit, os, sys
from modelzoo.cli import ranks
class Kept:
    def __del__(self, abort=os.abort):
        abort()
sys.kept = Kept()
atexit.register(print, "at exit")
print("done", end=" ")
{last}
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == code
    assert code != 3 or ended.stdout == "done at exit\n"
