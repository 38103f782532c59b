"""Runs in processes that start at once, forked from one that has torch loaded: to be killed, and to be ranks."""

import multiprocessing
import os
import socket
import time
from pathlib import Path

from tests.runs import small_config
from tests.trainer.faults import plant

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["modelzoo.launch", "tests.trainer.processes"])


def train(dataset, folder, overrides, planted=None):
    """Train, from the newest checkpoint on; exit code 3 where a signal stopped it, 1 after an error."""
    import torch

    from modelzoo.files import exclusive
    from modelzoo.launch import build_run, resume

    torch.set_num_threads(1)
    config = small_config(Path(dataset), Path(folder), *overrides)
    trainer = build_run(config)
    resume(trainer, config)
    if planted is not None:
        plant(trainer, **planted)
    if trainer.parallel.is_main:
        with exclusive(trainer.run_dir / ".lock", "training"):
            finished = trainer.train()
    else:
        finished = trainer.train()
    trainer.parallel.barrier()
    trainer.parallel.close()
    os._exit(0 if finished else 3)


def _as_rank(environment, arguments, keywords):
    os.environ.update(environment)
    train(*arguments, **keywords)


def start(*arguments, num_ranks=1, **keywords):
    """`train` in one process, or as ranks in several."""
    common = {}
    if num_ranks > 1:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        common = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for rank in range(num_ranks):
        own = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} if num_ranks > 1 else {}
        processes.append(CONTEXT.Process(target=_as_rank, args=(own, arguments, keywords)))
        processes[-1].start()
    return processes


def codes(processes, timeout=300, grace=1):
    """Their exit codes, once all have ended. What a crash of one leaves behind is killed, as the launcher does it."""
    deadline = time.monotonic() + timeout
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        if any(process.exitcode for process in processes):
            deadline = min(deadline, time.monotonic() + grace)
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.join()
    return [process.exitcode for process in processes]
