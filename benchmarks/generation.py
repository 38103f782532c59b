"""Generation on a CPU: transformers, as shipped and compiled over a static cache, beside ours, in one process.

    python -m benchmarks.generation [--size tiny 125M] [--family gptj gpt_neox] [--batch 1 8] [--json FILE]

Random weights; greedy, prompts of 64 tokens, 128 new ones. Arms take turns (A B C A B C …). In fp32 the tokens of
every arm must be those of transformers as shipped, or the run fails; of the others it prints how many are.
TORCHINDUCTOR_CACHE_DIR keeps what the compiled arms compile: `first s` of a second run is that of a warm cache.
"""

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CompileConfig, GPTJConfig, GPTJForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from benchmarks.training_case import OTHER_SIZE, positive
from modelzoo.convert import hf
from modelzoo.model.config import ModelConfig
from modelzoo.model.decoder import Decoder
from modelzoo.model.gpt import GPT
from modelzoo.model.weights import Form

SIZES = {"tiny": (4, 192, 6, 4_096), "125M": (12, 768, 12, 50_257)}
"""Layers, hidden size, heads, vocabulary; that of other sizes is the last one's."""
UNIT, COMPILED, OURS = "transformers", "transformers, static, compiled", "ours, packed"
BF16 = ", bf16"
"""Ends the name of an arm that computes in bf16; it is compared with those of the peer that do."""
ARMS = (
    *(UNIT, COMPILED, "ours", OURS, "ours, float16", "ours, int8", "ours, mixed"),
    *(UNIT + BF16, COMPILED + BF16, "ours" + BF16, OURS + BF16),
)
Arm = Callable[[], list[list[int]]]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = f"{', '.join(SIZES)}, or as 8x512x8: layers, hidden size, heads"
    parser.add_argument("--size", nargs="+", default=list(SIZES), help=sizes)
    parser.add_argument("--family", nargs="+", default=["gptj", "gpt_neox"], choices=["gptj", "gpt_neox"])
    parser.add_argument("--batch", type=positive, nargs="+", default=[1, 8], help="rows (%(default)s)")
    parser.add_argument("--prompt", type=positive, default=64, help="tokens (%(default)s)")
    parser.add_argument("--new", type=positive, default=128, help="tokens (%(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="timed (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(%(default)s)")
    known = "; ".join(ARMS[1:])
    parser.add_argument("--only", nargs="+", choices=ARMS, metavar="ARM", help=f"{known} (transformers always runs)")
    parser.add_argument("--cpu-time", action="store_true", help="time of this process instead of the clock's")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure here")
    found = parser.parse_args()
    if found.rounds < 2:
        parser.error(f"--rounds {found.rounds}: expected at least 2, for quartiles")
    for size in found.size:
        if size not in SIZES and not OTHER_SIZE.fullmatch(size):
            parser.error(f"--size {size}: expected one of {sizes}")
        layers, width, heads, _ = size_of(size)
        if not layers * width * heads or width % heads or width // heads % 8:
            parser.error(f"--size {size}: expected heads of a multiple of 8 channels, of which a quarter is rotated")
    return found


def size_of(name: str) -> tuple[int, int, int, int]:
    """Layers, hidden size, heads and vocabulary."""
    if name in SIZES:
        return SIZES[name]
    layers, width, heads = map(int, name.split("x"))
    return layers, width, heads, SIZES["125M"][3]


def reference(family: str, size: str, positions: int) -> Any:
    """A model of transformers with random weights, large enough that tokens depend on the context."""
    layers, width, heads, vocab_size = size_of(size)
    common: dict[str, Any] = {"vocab_size": vocab_size, "bos_token_id": None, "eos_token_id": None}
    torch.manual_seed(0)
    model: PreTrainedModel
    if family == "gptj":
        names = {"n_layer": layers, "n_head": heads, "n_embd": width, "n_positions": positions}
        model = GPTJForCausalLM(GPTJConfig(**common, **names, rotary_dim=width // heads // 4))
    else:
        names = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": width}
        names |= {"intermediate_size": 4 * width, "max_position_embeddings": positions}
        model = GPTNeoXForCausalLM(GPTNeoXConfig(**common, **names))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def ours(theirs: Any) -> GPT:
    """The same model."""
    layout = theirs.config.to_dict()
    config = ModelConfig.model_validate(hf.config_from_hf(layout))
    with torch.device("meta"):
        model = GPT(config)
    model = model.to_empty(device="cpu").to(theirs.dtype)
    model.load_state_dict(hf.weights_from_hf(theirs.state_dict(), layout, config))
    return model.eval()


def arms_of(theirs: Any, theirs_bf16: Any, prompts: Tensor, num_new: int) -> dict[str, tuple[Arm, str]]:
    """Each arm, and the arm whose tokens it must give ("": none)."""

    def peer(model: Any, **options: Any) -> Arm:
        given = {"attention_mask": torch.ones_like(prompts), "do_sample": False, "pad_token_id": 0} | options

        def run() -> list[list[int]]:
            return model.generate(prompts, max_new_tokens=num_new, **given)[:, prompts.shape[1] :].tolist()

        return run

    def own(model: GPT, weights: Form) -> Arm:
        decoders: list[Decoder] = []  # made once, in the first call, as a model is loaded once

        def run() -> list[list[int]]:
            if not decoders:
                decoders.append(Decoder(model, len(prompts), prompts.shape[1] + num_new, weights=weights))
            (decoder,) = decoders
            tokens = {decoder.add(prompt, max_new_tokens=num_new): list[int]() for prompt in prompts.tolist()}
            while decoder.num_rows:
                for token in decoder.step():
                    tokens[token.row].append(token.token_id)
            return list(tokens.values())

        return run

    compile_config = CompileConfig(mode="default")
    compile_config._compile_all_devices = True  # else it leaves CPUs alone
    static = {"cache_implementation": "static", "compile_config": compile_config}
    model, model_bf16 = ours(theirs), ours(theirs_bf16)
    return {
        UNIT: (peer(theirs), UNIT),
        COMPILED: (peer(theirs, **static), UNIT),
        "ours": (own(model, "model"), UNIT),
        OURS: (own(model, "packed"), UNIT),
        "ours, float16": (own(model, "float16"), ""),
        "ours, int8": (own(model, "int8"), ""),
        "ours, mixed": (own(model, "mixed"), ""),
        UNIT + BF16: (peer(theirs_bf16), ""),
        COMPILED + BF16: (peer(theirs_bf16, **static), ""),
        "ours" + BF16: (own(model_bf16, "model"), ""),
        OURS + BF16: (own(model_bf16, "packed"), ""),
    }


def measure(arguments: argparse.Namespace, family: str, size: str, batch: int) -> dict[str, Any]:
    """Every arm of one case: seconds of each round, and what share of its tokens are those of transformers."""
    positions = max(512, arguments.prompt + arguments.new)
    theirs = reference(family, size, positions)
    half = reference(family, size, positions).to(torch.bfloat16)
    prompts = torch.randint(0, size_of(size)[3], (batch, arguments.prompt), generator=torch.Generator().manual_seed(1))
    arms = arms_of(theirs, half, prompts, arguments.new)
    assert tuple(arms) == ARMS, list(arms)
    wanted = {UNIT, *(arguments.only or arms)}
    arms = {name: arm for name, arm in arms.items() if name in wanted}
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    tokens, first = dict[str, list[list[int]]](), dict[str, float]()
    for name, (arm, _) in arms.items():  # also warms up, and compiles
        started = time.perf_counter()
        tokens[name] = arm()
        first[name] = time.perf_counter() - started
    for name, (_, same_as) in arms.items():
        assert not same_as or tokens[name] == tokens[same_as], f"{family} {size} {batch}: {name}: other tokens"
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(arguments.rounds):
        for name, (arm, _) in arms.items():
            started = clock()
            arm()
            seconds[name].append(clock() - started)

    def equal(name: str) -> float:
        pairs = zip(chain(*tokens[name]), chain(*tokens[UNIT]), strict=True)
        return statistics.mean(found == expected for found, expected in pairs)

    case = {"family": family, "size": size, "batch": batch, "load": os.getloadavg(), "first_seconds": first}
    return case | {"seconds": seconds, "equal": {name: equal(name) for name in arms}}


def report(case: dict[str, Any], num_new: int) -> None:
    """The table; a ratio above 1 says faster than the other: than transformers as shipped and compiled, in bf16 where
    the arm is, and than ours in fp32."""
    load = ", ".join(f"{value:.1f}" for value in case["load"])
    print(f"\n{case['family']} {case['size']}, batch {case['batch']} (load {load})")
    titles = f"{'shipped (low quartiles)':>24} {'compiled':>9} {'ours fp32':>10} {'same':>6} {'first s':>8}"
    print(f"{'':<36} {'tokens/s (quartiles)':>26} {titles}")
    quartiles = {name: statistics.quantiles(seconds, n=4) for name, seconds in case["seconds"].items()}

    def ratio(other: str, name: str, quartile: int = 1) -> str:
        return f"{quartiles[other][quartile] / quartiles[name][quartile]:.2f}" if other in quartiles else "–"

    for name, (low, median, high) in quartiles.items():
        rates = [case["batch"] * num_new / value for value in (median, high, low)]
        precision = BF16 if name.endswith(BF16) else ""
        shipped = f"{ratio(UNIT + precision, name)} ({ratio(UNIT + precision, name, 0)})"
        ratios = f"{shipped:>24} {ratio(COMPILED + precision, name):>9} {ratio(OURS, name):>10}"
        found = f"{case['equal'][name]:>6.0%} {case['first_seconds'][name]:>8.1f}"
        print(f"{name:<36} {'{:,.0f} ({:,.0f}–{:,.0f})'.format(*rates):>26} {ratios} {found}", flush=True)


def main() -> None:
    """Measure and print."""
    arguments = parse()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    cases = []
    for size in arguments.size:
        for family in arguments.family:
            for batch in arguments.batch:
                cases.append(measure(arguments, family, size, batch))
                report(cases[-1], arguments.new)
                if arguments.json:
                    arguments.json.write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
