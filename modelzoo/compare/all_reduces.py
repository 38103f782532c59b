"""How often ranks that share a layer have to sum: counted in two processes, not derived."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.multiprocessing import spawn
from torch.profiler import profile

from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.model.tensor_parallel import share_layers

NUM_RANKS = 2
COUNTED = "gloo:all_reduce"


def count_all_reduces(models: Mapping[str, ModelConfig]) -> dict[str, dict[str, int]]:
    """{name: {"forward": n, "backward": n}}: sums between ranks that one layer takes in each pass.

    Two processes share a layer of each model by tensor parallelism, on the CPU, over gloo. The number follows from the
    order of the layer's parts, not from its sizes, which are small here.
    """
    with tempfile.TemporaryDirectory() as folder:
        small = {name: _one_small_layer(config).model_dump_json() for name, config in models.items()}
        spawn(_count, (small, folder), NUM_RANKS)
        found: dict[str, dict[str, int]] = json.loads((Path(folder) / "counts.json").read_text(encoding="utf-8"))
    return found


def _one_small_layer(config: ModelConfig) -> ModelConfig:
    """A model of a layer with as many heads as ranks, of the same size each, for their rotation may depend on it."""
    sizes = {"num_layers": 1, "num_heads": NUM_RANKS, "hidden_size": NUM_RANKS * config.head_dim, "ffn_size": None}
    sizes |= {"vocab_size": 64, "padded_vocab_size": None, "max_seq_len": 8, "mup": None}
    return ModelConfig.model_validate(config.model_dump() | sizes)


def _count(rank: int, models: Mapping[str, str], folder: str) -> None:
    """On one rank; the first writes what it has counted."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=NUM_RANKS
    )  # a file to meet at needs no port
    counts = {}
    for name, text in models.items():
        config = ModelConfig.model_validate_json(text)
        model = GPT(config)
        share_layers(model, init_device_mesh("cpu", (NUM_RANKS,)))
        x = torch.randn(2, config.max_seq_len, config.hidden_size, requires_grad=True)
        position = config.position.table(torch.arange(config.max_seq_len), config.head_dim)
        with _silent(), profile() as forward:
            y = model.blocks[0](x, position)
        with _silent(), profile() as backward:
            y.sum().backward()
        counts[name] = {"forward": _sums(forward), "backward": _sums(backward)}
    if rank == 0:
        (Path(folder) / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
    distributed.destroy_process_group()


@contextmanager
def _silent() -> Iterator[None]:
    """Without what the profiler's library writes to standard error, whatever its log level."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _sums(profiled: profile) -> int:
    return sum(event.count for event in profiled.key_averages() if event.key.startswith(COUNTED))
