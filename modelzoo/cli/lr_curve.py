"""A schedule's shape in two lines of text, so that it is seen before a run is launched."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelzoo.run_config import RunConfig

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 48


def curve(config: "RunConfig") -> dict[str, Any]:
    """The learning rate at the steps where its course turns, and at even distances over the run."""
    last = config.total_steps - 1
    turns = config.schedule.turns(config.total_steps, config.tokens_per_step)
    steps = {0, last, *(turn for turn in turns if 0 <= turn <= last)}
    if len(steps) < 5:
        steps |= {last // 4, last // 2, 3 * last // 4}
    even = [last * index // (WIDTH - 1) for index in range(WIDTH)] if last >= WIDTH else list(range(last + 1))
    rate = {step: config.optimizer.lr * config.lr_factor(step) for step in steps.union(even)}
    return {"turns": [{"step": step + 1, "lr": rate[step]} for step in sorted(steps)], "even": [rate[s] for s in even]}


def drawn(curve: dict[str, Any]) -> list[str]:
    """The curve as a row of bars over zero, and its values."""
    highest = max(curve["even"]) or 1.0
    bars = "".join(BARS[round(value / highest * (len(BARS) - 1))] for value in curve["even"])
    return [bars, ", ".join(f"{turn['lr']:.3g} at step {turn['step']:,}" for turn in curve["turns"])]
