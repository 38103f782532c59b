"""Who may import whom. Torch stays out of everything that is read before a run starts."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG_LAYER = {"modelzoo.base_config", "modelzoo.files", "modelzoo.user_error"}
ALLOWED = {
    "modelzoo.user_error": set(),
    "modelzoo.base_config": {"modelzoo.user_error"},
    "modelzoo.files": {"modelzoo.base_config"},
    "modelzoo.config_errors": CONFIG_LAYER,
    "modelzoo.yaml_source": CONFIG_LAYER,
    "modelzoo.standalone_yaml": CONFIG_LAYER | {"modelzoo.yaml_source"},
    "modelzoo.config_files": CONFIG_LAYER
    | {"modelzoo.composition", "modelzoo.config_errors", "modelzoo.standalone_yaml", "modelzoo.yaml_source"}
    | {"modelzoo.forking"},
    "modelzoo.forking": set(),
    "modelzoo.composition": CONFIG_LAYER | {"modelzoo.config_errors", "modelzoo.config_files", "modelzoo.yaml_source"},
    "modelzoo.tokenizer": CONFIG_LAYER
    | {"modelzoo.fast_tokenizer", "modelzoo.tokenizer_cuts", "modelzoo.tokenizer_files", "modelzoo.tokenizer_reading"},
    "modelzoo.fast_tokenizer": CONFIG_LAYER | {"modelzoo.fast_loading", "modelzoo.tokenizer_cuts"},
    "modelzoo.fast_loading": set(),
    "modelzoo.tokenizer_cuts": set(),
    "modelzoo.tokenizer_files": CONFIG_LAYER,
    "modelzoo.tokenizer_reading": set(),
    "modelzoo.allocator": set(),
    "modelzoo.dtensors": set(),
    "modelzoo.model": CONFIG_LAYER | {"modelzoo.dtensors", "modelzoo.model"},
    "modelzoo.data": CONFIG_LAYER | {"modelzoo.data"},
    "modelzoo.optimizer": CONFIG_LAYER | {"modelzoo.optimizer"},
    "modelzoo.schedule": CONFIG_LAYER | {"modelzoo.schedule"},
    "modelzoo.tensor_writer": set(),
    "modelzoo.trainer": CONFIG_LAYER
    | {"modelzoo.trainer", "modelzoo.allocator", "modelzoo.dtensors", "modelzoo.tensor_writer"},
    "modelzoo.trainer.callbacks": CONFIG_LAYER | {"modelzoo.trainer", "modelzoo.report"},  # from a run's files alone
    "modelzoo.report": CONFIG_LAYER | {"modelzoo.report"},
    **{  # the report of a study, from its files alone
        f"modelzoo.compare.{name}": CONFIG_LAYER | {"modelzoo.compare", "modelzoo.report"}
        for name in (
            "answer",
            "checks_after",
            "curve_charts",
            "curves",
            "effects",
            "evidence",
            "ladder",
            "page",
            "results",
            "run_results",
            "summary",
        )
    },
    "modelzoo.evaluate": CONFIG_LAYER
    | {"modelzoo.evaluate", "modelzoo.tokenizer", "modelzoo.data", "modelzoo.model", "modelzoo.trainer.accelerator"},
    "modelzoo.mup": CONFIG_LAYER | {"modelzoo.mup", "modelzoo.model", "modelzoo.optimizer"},
    "modelzoo.convert": CONFIG_LAYER
    | {"modelzoo.convert", "modelzoo.model", "modelzoo.tensor_writer", "modelzoo.tokenizer", "modelzoo.tokenizer_files"}
    | {"modelzoo.trainer.checkpoint"},  # the files alone
    "modelzoo.run_config": CONFIG_LAYER
    | {"modelzoo.config_errors", "modelzoo.config_files", "modelzoo.data.config", "modelzoo.model.config"}
    | {"modelzoo.model.parameters", "modelzoo.model.lora_config"}
    | {"modelzoo.optimizer", "modelzoo.schedule", "modelzoo.trainer.config", "modelzoo.trainer.callbacks"},
    "modelzoo.run_length": CONFIG_LAYER | {"modelzoo.run_config", "modelzoo.data"},
    "modelzoo.launch": CONFIG_LAYER
    | {"modelzoo.run_config", "modelzoo.tokenizer", "modelzoo.data", "modelzoo.model", "modelzoo.optimizer"}
    | {"modelzoo.schedule", "modelzoo.trainer", "modelzoo.text_samples", "modelzoo.saved_models"}
    | {"modelzoo.continuing", "modelzoo.run_length", "modelzoo.convert.adapters"},
    "modelzoo.base_fit": CONFIG_LAYER
    | {"modelzoo.config_errors", "modelzoo.run_config", "modelzoo.tokenizer", "modelzoo.data.schema"}
    | {"modelzoo.model.config", "modelzoo.convert.source", "modelzoo.trainer.checkpoint_folders"},
    "modelzoo.continuing": CONFIG_LAYER
    | {"modelzoo.run_config", "modelzoo.data", "modelzoo.model", "modelzoo.trainer", "modelzoo.convert"}
    | {"modelzoo.saved_models", "modelzoo.base_fit"},
    "modelzoo.saved_models": CONFIG_LAYER
    | {"modelzoo.config_errors", "modelzoo.run_config", "modelzoo.tokenizer", "modelzoo.data.schema"}
    | {"modelzoo.model", "modelzoo.trainer.checkpoint", "modelzoo.convert.adapters"},
    "modelzoo.text_stream": set(),
    "modelzoo.text_samples": CONFIG_LAYER
    | {"modelzoo.model", "modelzoo.text_stream", "modelzoo.tokenizer", "modelzoo.trainer.accelerator"},
    "modelzoo.batching": {"modelzoo.model", "modelzoo.text_stream", "modelzoo.tokenizer"},
    "modelzoo.serve": CONFIG_LAYER | {"modelzoo.serve", "modelzoo.batching", "modelzoo.model", "modelzoo.tokenizer"},
    "modelzoo.compare": CONFIG_LAYER
    | {"modelzoo.compare", "modelzoo.config_errors", "modelzoo.config_files", "modelzoo.run_config", "modelzoo.data"}
    | {"modelzoo.evaluate", "modelzoo.saved_models", "modelzoo.tokenizer", "modelzoo.trainer", "modelzoo.report"}
    | {"modelzoo.launch", "modelzoo.model", "modelzoo.optimizer", "modelzoo.text_samples"},
    "modelzoo.cli": {"modelzoo", "data_preprocessing"},
    "data_preprocessing": CONFIG_LAYER
    | {
        "data_preprocessing",
        "modelzoo.allocator",
        "modelzoo.config_errors",
        "modelzoo.tokenizer",
        "modelzoo.data.schema",
        "modelzoo.forking",
    },
}
WITHOUT_TORCH = [
    "modelzoo.base_config", "modelzoo.config_errors", "modelzoo.config_files", "modelzoo.composition",
    "modelzoo.run_config",
    "modelzoo.tokenizer", "modelzoo.data.schema", "modelzoo.data.config", "modelzoo.data.dataset",
    "modelzoo.model.config", "modelzoo.model.parameters", "modelzoo.optimizer", "modelzoo.schedule",
    "modelzoo.trainer.config",
    "modelzoo.trainer.callbacks", "data_preprocessing.config", "data_preprocessing.pipeline", "modelzoo.cli.main",
    "modelzoo.mup.widths", "modelzoo.text_stream", "modelzoo.report.continuation_page", "modelzoo.run_length",
    "modelzoo.model.lora_config", "modelzoo.compare.plan", "modelzoo.compare.execution", "modelzoo.cli.compare",
    "modelzoo.compare.command_line", "modelzoo.compare.page", "modelzoo.compare.results",
    "modelzoo.compare.summary", "modelzoo.base_fit",
]  # fmt: skip


def modules():
    for package in ("modelzoo", "data_preprocessing"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, path


def imports_of(path: Path) -> set[str]:
    """Modules of this project that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            is_package = (ROOT / node.module.replace(".", "/")).is_dir()
            known = {m for m in submodules if is_package and (ROOT / (m.replace(".", "/") + ".py")).exists()}
            found |= known or {node.module}
    return {name for name in found if name.split(".")[0] in ("modelzoo", "data_preprocessing")}


def within(name: str, layers: set[str]) -> bool:
    return any(name == layer or name.startswith(layer + ".") for layer in layers)


def violations(name: str, imported: set[str]) -> set[str]:
    layer = max((layer for layer in ALLOWED if within(name, {layer})), key=len, default=None)
    if layer is None:
        assert name == "modelzoo", f"{name} belongs to no layer; give it one here"
        return imported
    return {other for other in imported if not within(other, ALLOWED[layer])}


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_a_module_imports_from_the_layers_below_only(name, path):
    assert not violations(name, imports_of(path))


def test_the_rule_would_catch_a_violation():
    assert violations("modelzoo.trainer.trainer", {"modelzoo.model.gpt"})
    assert violations("data_preprocessing.pipeline", {"modelzoo.model.config"})
    assert violations("modelzoo.model.gpt", {"modelzoo.data.dataset"})
    assert violations("modelzoo.trainer.trainer", {"modelzoo.report.continuation"})
    assert violations("modelzoo.report.continuation", {"modelzoo.run_config"})
    assert not violations("modelzoo.launch", {"modelzoo.model.gpt"})


def test_what_is_read_before_a_run_never_imports_torch():
    program = f"import sys, importlib\nfor m in {WITHOUT_TORCH!r}:\n importlib.import_module(m)\n"
    program += " assert 'torch' not in sys.modules, m\n"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_nothing_can_run_code_from_a_file():
    """No pickle, no eval, no YAML loader that builds objects."""
    forbidden = {"eval", "exec", "compile", "__import__"}
    for name, path in modules():
        tensors_only = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ("weights_only", "True") in {
                (word.arg, ast.unparse(word.value)) for word in node.keywords
            }:
                tensors_only.add(node.func)  # torch.load of a .bin, which then builds tensors and nothing else
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in forbidden, f"{name}:{node.lineno}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {"pickle", "dill", "cloudpickle", "shelve", "marshal"} & set(names), f"{name}:{node.lineno}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node not in tensors_only:
                call = f"{node.value.id}.{node.attr}"
                assert call not in ("torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"), (
                    f"{name}:{node.lineno}"
                )


def test_no_code_asks_for_a_familys_name():
    """Options name behaviour: only converters, which speak other programs' languages, know the families."""
    for name, path in modules():
        if not name.startswith("modelzoo.convert"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Compare):
                    for side in [node.left, *node.comparators]:
                        value = side.value if isinstance(side, ast.Constant) else None
                        assert value not in ("gptj", "gpt_j", "gpt_neox", "neox_20b"), f"{name}:{node.lineno}"
