"""Batches of random rows through litdata or datatrove, on demand: for each line of input, some batches and the
microseconds they took. Runs in the peers' environment; needs nothing of modelzoo."""

import argparse
import sys
import time
from pathlib import Path


def litdata_loader(tokens, folder: Path, length: int, batch_size: int):
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
    return StreamingDataLoader(data, batch_size=batch_size, num_workers=0)


def datatrove_loader(tokens, folder: Path, length: int, batch_size: int):
    from datatrove.utils.dataset import DatatroveFileDataset
    from torch.utils.data import DataLoader

    folder.mkdir(exist_ok=True)
    path = folder / "tokens.ds"
    if not path.exists():
        tokens.tofile(path)
    data = DatatroveFileDataset(str(path), length - 1, token_size=2)
    return DataLoader(data, batch_size=batch_size, shuffle=True, num_workers=0)


def forever(loader):
    while True:
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=["litdata", "datatrove"])
    parser.add_argument("bin", type=Path, help="tokens, uint16")
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--batches", type=int, required=True)
    arguments = parser.parse_args()
    import numpy as np
    import torch

    torch.set_num_threads(1)
    tokens = np.fromfile(arguments.bin, dtype=np.uint16)
    make = {"litdata": litdata_loader, "datatrove": datatrove_loader}[arguments.name]
    folder = arguments.bin.with_name(arguments.name)
    batches = forever(make(tokens, folder, arguments.length, arguments.batch_size))
    next(batches)
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        for _ in range(arguments.batches):
            next(batches)
        print((time.perf_counter() - started) / arguments.batches * 1e6, flush=True)


if __name__ == "__main__":
    main()
