"""Installs the package and its extras; constraints.txt lists the tested versions."""

from setuptools import find_packages, setup

setup(
    name="maskdiff",
    version="0.1.0",
    description="Masked discrete diffusion for formal languages: "
    "one small denoiser that generates, repairs and edits",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["maskdiff", "maskdiff.*"]),
    entry_points={"console_scripts": ["maskdiff = maskdiff.__main__:run"]},
    package_data={
        "maskdiff": [
            "py.typed",
            "languages/*/*.lark",
            "languages/*/*.json",
            "experiments/*/*.jsonl",
        ]
    },
    install_requires=[
        "torch>=2.2",
        "numpy>=1.24",
        "tqdm>=4.60",
        "PyYAML>=6.0",
        "tensorboard>=2.12",
        "lark>=1.1.9",  # reads grammars
        "tokenizers>=0.20",  # byte-pair merges
    ],
    extras_require={
        "test": [
            "pytest>=7.4",
            "pytest-xdist>=3.5",
            "hypothesis>=6.80",
            "ruff>=0.6",
            "mypy>=1.8",
            "types-PyYAML",
            "matplotlib>=3.7",
            "safetensors>=0.4",
            "transformers>=5",
            "openai>=1.40",
            "fastapi>=0.110",
            "uvicorn>=0.27",
            "httpx>=0.27",
            "croniter>=2.0",
            "sqlglot>=25",
        ],
        "plots": ["matplotlib>=3.7"],
        "hub": ["safetensors>=0.4"],
        "transformers": [
            "transformers>=5",
            "safetensors>=0.4",
        ],  # completes with any causal language model of it
        "serve": ["fastapi>=0.110", "uvicorn>=0.27"],  # `maskdiff serve`
        "peers": ["json_repair>=0.30"],  # the benchmark compares repairs of JSON with it
        "examples": ["croniter>=2.0", "sqlglot>=25"],  # the judges of examples/
        "openai": ["openai>=1.40"],  # asks models behind OpenAI-compatible HTTP
    },
)
