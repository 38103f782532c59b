"""The proof of what a run has seen: a hash of every global batch, chained over all of them."""

import hashlib

import numpy as np

from modelzoo.trainer.protocols import Batch


def batch_sha256(batch: Batch) -> str:
    """sha256 of a batch's names, shapes and values, whatever type of integer they come in; in hex."""
    digest = hashlib.sha256()
    for name, values in sorted(batch.items()):
        digest.update(f"{name}{values.shape}".encode())
        kind = np.uint8 if values.dtype == np.bool_ else "<i4"  # half of the work that int64 would be
        digest.update(np.ascontiguousarray(values, dtype=kind).data)
    return digest.hexdigest()


def chained_sha256(chain: str, link: str) -> str:
    """The chain after another batch: two runs of one chain have seen the same batches in the same order."""
    return hashlib.sha256((chain + link).encode()).hexdigest()
