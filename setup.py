"""Installation. Ranges are open here; constraints.txt pins what was tested, and the Makefile uses it."""

from pathlib import Path

from setuptools import find_packages, setup

CONFIGS = Path(__file__).parent / "configs"

FASTOKENS = "fastokens>=0.3.5"

setup(
    name="modelzoo",
    version="0.1.0",
    description="Declarative, config-driven training of GPT-2, GPT-J and GPT-NeoX style language models",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    # configs/ stands at the top of the repository, where users look for it, and travels inside the
    # package, where an installed wheel finds it.
    packages=[*find_packages(include=["modelzoo*", "data_preprocessing*"]), "modelzoo.configs"],
    package_dir={"modelzoo.configs": "configs"},
    package_data={"modelzoo.configs": [str(p.relative_to(CONFIGS)) for p in CONFIGS.rglob("*.yaml")]},
    install_requires=[
        "torch>=2.9",
        "pydantic>=2.11",
        "pyyaml>=6",
        "hydra-core>=1.3.2,<1.4",  # config_files.py takes steps of its loader that are not public
        "tokenizers>=0.21",
        "h5py>=3.11",
        "numpy>=1.26",
        "safetensors>=0.5",
        "typer>=0.15",
        "rich>=13",
        "tensorboard>=2.18",
        "matplotlib>=3.9",
        "orjson>=3.10",
        "fsspec>=2024.6",
        "zstandard>=0.22",
        # fifty times faster than tokenizers, which it is checked against; elsewhere tokenizers serves alone
        f"{FASTOKENS}; platform_machine == 'x86_64' or platform_machine == 'AMD64' or platform_machine == 'arm64'",
    ],
    extras_require={
        "fast": [FASTOKENS],
        "parquet": ["pyarrow>=16"],
        "hub": ["datasets>=3", "huggingface_hub>=0.30"],
        "ftfy": ["ftfy>=6.2"],
        "ray": ["ray>=2.40"],
        "hf": ["transformers>=4.57"],  # the logit check of import and export
        "wandb": ["wandb>=0.19"],
        "s3": ["s3fs>=2024.6"],  # checkpoints copied to, and corpora read from, a bucket
        "peft": ["peft>=0.17"],  # the logit check of exported adapters
        "lm_eval": ["lm_eval>=0.4.13"],
        "bench": ["transformers>=5"],  # peers of benchmarks/, which says how to add those with pins of their own
        "serve": ["starlette>=1.0", "uvicorn>=0.40"],
        "test": [
            *("pytest>=8", "pytest-xdist>=3.6", "transformers>=5", "pyarrow>=16", "ftfy>=6.2"),
            *("starlette>=1.0", "uvicorn>=0.40", "httpx2>=2"),
        ],
        "test-all": ["ray>=2.40", "datasets>=3"],
        "dev": ["ruff>=0.12", "mypy>=1.15", "types-PyYAML", "pre-commit>=4"],
    },
    entry_points={"console_scripts": ["modelzoo=modelzoo.cli.main:main"]},
)
