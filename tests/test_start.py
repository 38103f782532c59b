"""What a command loads before it begins: no more than it needs."""

import os
import signal
import subprocess
import sys

import pytest

from data_preprocessing.workers import _Worker
from modelzoo.cli.main import VERBS, build
from modelzoo.cli.progress import counting


def in_a_process(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_list_needs_no_config_classes():
    program = (
        "import sys; from modelzoo.cli.main import main\nsys.argv = ['modelzoo', 'list', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "loaded = {'hydra', 'numpy', 'torch', 'modelzoo.run_config'} & sys.modules.keys()\nassert not loaded, loaded"
    )
    assert "family" in in_a_process(program)


def test_a_config_composed_beside_is_the_one_composed_here_and_so_are_its_errors():
    program = (
        "import sys\nfrom modelzoo.base_config import UserError\n"
        "from modelzoo.config_files import compose, compose_beside\n"
        "arguments = 'preprocess/trc2_gpt2', ['shuffle_seed=7']\n"
        "def message(call):\n try: call()\n except UserError as error: return str(error)\n"
        "composed, wrong = compose_beside(*arguments), compose_beside('preprocess/trc3', ['a=1'])\n"
        "composed = composed()\nassert 'hydra' not in sys.modules, 'composed here'\n"
        "wrong = message(wrong)\nassert 'preprocess/trc3' in wrong, wrong\n"
        "assert wrong == message(lambda: compose('preprocess/trc3', ['a=1'])), wrong\n"
        "assert composed.data['shuffle_seed'] == 7 and composed == compose(*arguments)"
    )
    in_a_process(program)


def test_every_verb_has_its_file():
    program = build(VERBS)
    names = {command.name for command in program.registered_commands} | {g.name for g in program.registered_groups}
    assert names == set(VERBS)


def test_work_is_counted_where_there_is_no_standard_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with counting("reading", 3, "bytes") as advance:
        advance(3)


def test_an_interrupt_while_modules_are_loaded_has_no_traceback():
    program = (  # a verb whose module takes for ever to load, as far as the signal is concerned
        "import importlib, os, signal, sys\nfrom modelzoo.cli import main\nsys.argv = ['modelzoo', 'list']\n"
        "importlib.import_module = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT)\nmain.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held here")
def test_a_signal_while_a_process_is_forked_comes_afterwards():
    program = (  # of one thread: another would take the signal
        "import os, signal\nfrom modelzoo.forking import HELD, signals_held\n"
        "try:\n with signals_held():\n  os.kill(os.getpid(), signal.SIGINT)\n  print('held')\n"
        "except KeyboardInterrupt: print('come')\n"
        "assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(HELD)"
    )
    assert in_a_process(program).split() == ["held", "come"]


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux")
def test_workers_take_the_signals_that_were_held():
    worker = _Worker(None, forks=True)  # type: ignore[arg-type]
    os.kill(worker.process.pid, signal.SIGTERM)
    worker.process.join(30)
    worker.process.kill()  # should it not have taken it
    assert worker.process.exitcode == -signal.SIGTERM
