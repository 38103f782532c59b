"""Batches of random rows through litdata, datatrove or Cerebras ModelZoo, on demand: for each line of input, some
batches and the microseconds they took. All end at what a model is given: tensors of inputs and of targets, in
int64 where the loader does not say otherwise. Runs in the peers' environment; needs nothing of ours."""

import argparse
import importlib.util
import sys
import time
from pathlib import Path


def litdata_loader(tokens, folder: Path, length: int, batch_size: int, _):
    import torch
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader
    from litdata.streaming.cache import Cache

    if not (folder / "index.json").exists():
        cache = Cache(str(folder), chunk_size=length * 512, item_loader=TokensLoader(block_size=length))
        step = length * 64
        for number, start in enumerate(range(0, len(tokens) - step, step)):
            cache[number] = torch.from_numpy(tokens[start : start + step])
        cache.done()
        cache.merge()
    data = StreamingDataset(str(folder), item_loader=TokensLoader(block_size=length), shuffle=True)
    # as litgpt's pretraining takes its batches: stored as uint16, a model needs int64
    for rows in forever(StreamingDataLoader(data, batch_size=batch_size, num_workers=0)):
        yield rows[:, :-1].contiguous().long(), rows[:, 1:].contiguous().long()


def datatrove_loader(tokens, folder: Path, length: int, batch_size: int, _):
    from datatrove.utils.dataset import DatatroveFileDataset
    from torch.utils.data import DataLoader

    folder.mkdir(exist_ok=True)
    path = folder / "tokens.ds"
    if not path.exists():
        tokens.tofile(path)
    data = DatatroveFileDataset(str(path), length - 1, token_size=2)
    for rows in forever(DataLoader(data, batch_size=batch_size, shuffle=True, num_workers=0)):
        yield rows["input_ids"][:, :-1], rows["input_ids"][:, 1:]


def modelzoo_loader(tokens, folder: Path, length: int, batch_size: int, checkout: Path):
    """Its reader, from the checkout as it stands, in what its GptHDF5MapDataProcessor and HDF5Dataset put around
    it: a dict of each example's rows, default_collate, a DataLoader without workers. The sampler is torch's, as
    theirs comes with a package for their machines."""
    from torch.utils.data import DataLoader

    source = checkout / "src/cerebras/modelzoo/data/common/h5_map_dataset/readers.py"
    spec = importlib.util.spec_from_file_location("readers", source)
    readers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readers)
    names = ("input_ids", "attention_mask", "labels")

    class Examples:
        def __init__(self):
            self.reader = readers.H5Reader(data_dirs=[str(folder.with_name("samples"))], read_extra_token=True)

        def __getitem__(self, i):
            example = self.reader[i]
            return {name: example[row] for row, name in enumerate(names)}

        def __len__(self):
            return len(self.reader)

    yield from forever(DataLoader(Examples(), batch_size=batch_size, shuffle=True, num_workers=0))


def forever(loader):
    while True:
        yield from loader


LOADERS = {"litdata": litdata_loader, "datatrove": datatrove_loader, "ModelZoo": modelzoo_loader}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=list(LOADERS))
    parser.add_argument("bin", type=Path, help="tokens, uint16")
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--batches", type=int, required=True)
    parser.add_argument("--checkout", type=Path, help="of Cerebras/modelzoo")
    arguments = parser.parse_args()
    import numpy as np
    import torch

    torch.set_num_threads(1)
    tokens = np.fromfile(arguments.bin, dtype=np.uint16)
    folder = arguments.bin.with_name(arguments.name)
    make = LOADERS[arguments.name]
    batches = make(tokens, folder, arguments.length, arguments.batch_size, arguments.checkout)
    next(batches)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(arguments.batches):
            next(batches)
        print((time.perf_counter() - started) / arguments.batches * 1e6, flush=True)


if __name__ == "__main__":
    main()
