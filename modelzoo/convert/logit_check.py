"""Do two models say the same? Ours and transformers' on the same random ids, both in fp32. And their tokenizers?

Shapes: B sequences, T positions, V vocabulary (rows of the embedding).
"""

import importlib.metadata
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelzoo.convert.family import Family
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.tokenizer import Tokenizer
from modelzoo.trainer.checkpoint import read_tensors

TOLERANCE = 1e-4
"""Of a difference of logits, in standard deviations of the logits over the vocabulary.

The softmax sees differences of logits only, so their spread is the scale that counts: GPT-2's are near -100 with a
spread of 3. Rounding in fp32 leaves 1e-6 to 1e-5 of it; the least of mistakes, one GELU for the other, 2e-4 and more.
"""
ROUNDINGS = 4
"""Times what rounding did to ours, that it may do to both."""
SEQUENCES, POSITIONS = 2, 64

SAMPLE = "The quick brown fox\n\tjumps over 3.14 lazy dogs;  it's «naïve» 日本 🚀\n"

NOT_CHECKED = "not checked"
NO_TRANSFORMERS = "transformers is not installed (pip install transformers)"


def check_logits(
    hf_folder: Path, family: Family, folder: Path, config: ModelConfig, weights: str = "model"
) -> dict[str, Any]:
    """Compare a folder of Hugging Face's with a checkpoint's; one model is in memory at a time.

    Returns:
        `result`: "equal", "different" or "not checked". Where checked: `max_difference` of two logits, `where` it is,
        `tolerance` (the largest allowed), `max_logit`, `tokens` compared. Else: `reason`, and `error` where it is
        transformers that fails.
    """
    if reason := cannot_check(config):
        return {"result": NOT_CHECKED, "reason": reason}
    input_ids = random_ids(config)
    try:
        theirs = their_logits(hf_folder, family, input_ids)
    except Exception as error:  # whatever keeps transformers from running it: its classes are many
        kind, reason = type(error).__name__, (str(error).strip().splitlines() or [""])[0]
        return {"result": NOT_CHECKED, "error": kind, "reason": f"transformers fails to run it ({kind}: {reason})"}
    ours = our_logits(folder, config, input_ids, weights=weights)
    found = compare(theirs, ours)
    if found["result"] == "equal" or cannot_check(config, torch.float64):
        return found
    return _without_rounding(hf_folder, family, folder, config, input_ids, ours, found, weights)


def random_ids(config: ModelConfig) -> Tensor:
    """(B, T), always the same."""
    length = min(POSITIONS, config.max_seq_len)
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, config.num_embeddings, (SEQUENCES, length), generator=generator)


def _without_rounding(
    hf_folder: Path,
    family: Family,
    folder: Path,
    config: ModelConfig,
    input_ids: Tensor,
    ours: Tensor,
    found: Any,
    weights: str,
) -> dict[str, Any]:
    """What fp64 says of logits that differ in fp32: weights may be so large that rounding alone explains it.

    transformers computes some of attention in fp32 all the same (GPT-J's scores). Where ours differ from the same
    model's in fp32 by as much as from theirs, nothing can be told.
    """
    theirs_exact = their_logits(hf_folder, family, input_ids, torch.float64)
    ours_exact = our_logits(folder, config, input_ids, torch.float64, weights)
    exact = compare(theirs_exact, ours_exact)
    rounding = (ours_exact - ours).abs().max().item()
    if exact["result"] == "equal":
        return {**exact, "computed_in": "float64"}
    if exact["max_difference"] <= ROUNDINGS * rounding:
        reason = (
            f"rounding in fp32 alone changes its logits by up to {rounding:.3g} (they differ from transformers' by "
            f"{found['max_difference']:.3g}), which would hide a mistake"
        )
        return {"result": NOT_CHECKED, "reason": reason}
    return found


def cannot_check(config: ModelConfig, dtype: torch.dtype = torch.float32) -> str | None:
    """Why the logits cannot be compared here, computed in `dtype`, or None."""
    if not _has_transformers():
        return NO_TRANSFORMERS
    needed = int(config.num_parameters() * dtype.itemsize * 1.25)  # a model, and a quarter for what it computes
    available = available_memory()
    if available is not None and needed > available:
        return f"a model in fp32 takes {needed / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB of memory are free"
    return None


def compare(theirs: Tensor, ours: Tensor) -> dict[str, Any]:
    """The largest difference of two (B, T, V), and whether rounding explains it. NaN never does."""
    difference = (theirs - ours).abs().nan_to_num(nan=torch.inf)
    largest = int(difference.argmax())
    sequence, position, token = (int(i) for i in torch.unravel_index(torch.tensor(largest), difference.shape))
    tolerance = TOLERANCE * _spread(theirs)
    found = difference.flatten()[largest].item()
    return {
        "result": "equal" if found <= tolerance else "different",
        "max_difference": found,
        "where": {"sequence": sequence, "position": position, "token_id": token},
        "tolerance": tolerance,
        "max_logit": theirs.abs().max().item(),
        "tokens": theirs.shape[0] * theirs.shape[1],
        "transformers": importlib.metadata.version("transformers"),
    }


def _spread(logits: Tensor) -> float:
    """The standard deviation over the vocabulary. Of a single token, whose probability is 1, the largest logit."""
    return (logits.std(dim=-1).mean() if logits.shape[-1] > 1 else logits.abs().max()).item()


@torch.no_grad()
def their_logits(
    folder: Path,
    family: Family,
    input_ids: Tensor,
    computed_in: torch.dtype = torch.float32,
    adapter: Path | None = None,
) -> Tensor:
    """(B, T, V), in fp32 or fp64, of a folder of Hugging Face's, with an `adapter` of peft's where one is given. No
    code of it runs, and nothing is fetched."""
    import transformers

    dtype = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    with _quiet():
        model = getattr(transformers, family.architecture).from_pretrained(
            folder, local_files_only=True, **{dtype: computed_in}
        )
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(adapter), local_files_only=True)
        logits: Tensor = model.eval()(input_ids, use_cache=False).logits
    return logits.to(computed_in)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes and bars of transformers, which then speaks as before."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@torch.no_grad()
def our_logits(
    folder: Path,
    config: ModelConfig,
    input_ids: Tensor,
    computed_in: torch.dtype = torch.float32,
    weights: str = "model",
) -> Tensor:
    """(B, T, V), computed in fp32 or fp64, of a checkpoint's folder, whole or being written, and of its file
    `weights`."""
    return logits_of(read_tensors(folder, weights), config, input_ids, computed_in)


@torch.no_grad()
def logits_of(
    weights: dict[str, Tensor], config: ModelConfig, input_ids: Tensor, computed_in: torch.dtype = torch.float32
) -> Tensor:
    """(B, T, V), computed in fp32 or fp64, of a model's weights, which are let go one by one."""
    with torch.device("meta"):
        model = GPT(config)
    model.load_state_dict({name: weights.pop(name).to(computed_in) for name in list(weights)}, assign=True)
    logits: Tensor = model.eval()(input_ids)
    return logits


def check_tokenizer(folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Compare what `AutoTokenizer` makes of a folder with ours: `result`, and `reason` where it is not "equal"."""
    if not _has_transformers():
        return {"result": NOT_CHECKED, "reason": NO_TRANSFORMERS}
    from transformers import AutoTokenizer

    try:
        with _quiet():
            theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            end, found = theirs.eos_token_id, theirs(SAMPLE)["input_ids"]
    except Exception as error:  # as above
        return {"result": NOT_CHECKED, "error": type(error).__name__, "reason": f"AutoTokenizer fails: {error}"}
    wanted = tokenizer.encode(SAMPLE)
    if end != tokenizer.end_of_document_id:
        return {"result": "different", "reason": f"its eos_token_id is {end}, ours {tokenizer.end_of_document_id}"}
    if found != wanted:
        return {"result": "different", "reason": f"{SAMPLE!r} becomes {found[:12]}…, ours {wanted[:12]}…"}
    return {"result": "equal"}


def _has_transformers() -> bool:
    try:
        importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def available_memory() -> int | None:
    """Bytes that may be allocated, as far as the system says: what is free, and what a container may take."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        try:
            available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError, AttributeError):
            return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        return min(available, int(limit) - used) if limit.isdigit() else available
    except (OSError, ValueError):
        return available
