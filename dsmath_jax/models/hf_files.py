"""A Hugging Face checkpoint directory: its files, and whether its tensors are the model's."""

from __future__ import annotations

import dataclasses
import json
import pathlib

from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.parameters import ParamSpec, flat_specs
from dsmath_jax.models.safetensors_io import read_safetensors
from dsmath_jax.models.tensor_file import StoredTensor
from dsmath_jax.models.torch_pickle import read_torch

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")
PATTERNS = ("model-*.safetensors", "pytorch_model-*.bin")


@dataclasses.dataclass(frozen=True)
class HFCheckpoint:
    """A checked directory: `tensors` has every name of the model's, of the right shape and type."""

    config: ModelConfig
    tensors: dict[str, StoredTensor]

    @property
    def nbytes(self) -> int:
        return sum(t.array().nbytes for t in self.tensors.values())


def hf_names(spec: ParamSpec, config: ModelConfig) -> list[str]:
    """A parameter's tensors: one, or one a layer."""
    layers = range(config.num_layers) if spec.stacked else range(1)
    return [spec.hf_name.format(layer=layer) for layer in layers]


def hf_shape(spec: ParamSpec) -> tuple[int, ...]:
    """Shape of each of them: without the layers, [out, in]."""
    shape = spec.shape[1:] if spec.stacked else spec.shape
    return shape[::-1] if spec.transpose else shape


def is_hf_checkpoint(directory: pathlib.Path) -> bool:
    return any((directory / name).exists() for name in (*INDEXES, *SINGLE)) or any(
        any(directory.glob(pattern)) for pattern in PATTERNS
    )


def open_hf(directory: pathlib.Path) -> HFCheckpoint:
    """Reads config.json and the headers of the shards, and checks all before any tensor is read.

    Raises:
      FileNotFoundError: config.json, the weights or a shard that the index names is missing.
      ValueError: a tensor is missing, surplus, misshapen or of another type, or a file is damaged.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory with a Hugging Face checkpoint")
    config = ModelConfig.from_hf(directory)
    tensors = _read_shards(directory)
    config = _with_vocabulary_of(tensors, config, directory)
    return HFCheckpoint(config, _checked(tensors, config, directory))


def _read_shards(directory: pathlib.Path) -> dict[str, StoredTensor]:
    paths, index = _shard_paths(directory)
    tensors: dict[str, StoredTensor] = {}
    for path in paths:
        shard = _read_shard(path, directory, index)
        for name, tensor in shard.items():
            if index and index["weight_map"].get(name, path.name) != path.name:
                continue
            if name in tensors:
                raise ValueError(
                    f"tensor {name} is both in {tensors[name].file.path.name} and in {path}: "
                    "remove the shard that does not belong to this checkpoint"
                )
            tensors[name] = tensor
    for name, shard_name in (index or {"weight_map": {}})["weight_map"].items():
        if name not in tensors and not _ignored(name):
            raise ValueError(
                f"tensor {name} is missing from {directory / shard_name}, where the index says it "
                "is: get the shard and the index again"
            )
    return tensors


def _shard_paths(directory: pathlib.Path) -> tuple[list[pathlib.Path], dict | None]:
    """The shards, safetensors before torch's, and the index that named them, if one did."""
    for index_name, single, pattern in zip(INDEXES, SINGLE, PATTERNS, strict=True):
        path = directory / index_name
        if path.exists():
            index = _read_index(path)
            shards = sorted(set(index["weight_map"].values()))
            for shard in shards:
                if not (directory / shard).exists():
                    raise FileNotFoundError(
                        f"{directory / shard} is missing, and {index_name} names it: get the shard"
                    )
            return [directory / shard for shard in shards], index
        if (directory / single).exists():
            return [directory / single], None
        if found := sorted(directory.glob(pattern)):
            return found, None
    raise FileNotFoundError(
        f"{directory} holds no weights: neither {' nor '.join((*INDEXES, *SINGLE))}"
    )


def _read_index(path: pathlib.Path) -> dict:
    try:
        index = json.loads(path.read_bytes())
        names = index["weight_map"].values()
        # A shard is a file of this directory: no path leads out of it.
        if names and all(isinstance(n, str) and pathlib.Path(n).name == n for n in names):
            return index
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ValueError(f"{path} is damaged: it has no weight_map of file names; get it again")


def _read_shard(
    path: pathlib.Path, directory: pathlib.Path, index: dict | None
) -> dict[str, StoredTensor]:
    with open(path, "rb") as f:
        start = f.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull`")
    try:
        return read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    except ValueError as e:
        # A cut zip archive does not say how long it was; the index has the size of all shards.
        total = ((index or {}).get("metadata") or {}).get("total_size")
        if not isinstance(total, int):
            raise
        shards = sorted(set(index["weight_map"].values())) if index else []
        others = sum((directory / s).stat().st_size for s in shards if s != path.name)
        if path.stat().st_size >= total - others:
            raise
        raise ValueError(f"{e} (by the index it has about {total - others} bytes)") from None


def _with_vocabulary_of(
    tensors: dict[str, StoredTensor], config: ModelConfig, directory: pathlib.Path
) -> ModelConfig:
    """Some fine-tunes cut the vocabulary and leave config.json as it was: the tensors decide, when
    embedding and head agree."""
    specs = flat_specs(config)
    embed = tensors.get(specs["embed"].hf_name)
    if embed is None or len(embed.shape) != 2 or embed.shape[0] == config.vocab_size:
        return config
    if not config.tie_embeddings:
        head = tensors.get(specs["head"].hf_name)
        if head is None or head.shape[:1] != embed.shape[:1]:
            found = "missing" if head is None else list(head.shape)
            raise ValueError(
                f"{directory}: config.json has vocab_size {config.vocab_size}, {embed.name} is "
                f"{list(embed.shape)} and lm_head.weight is {found}: they must agree"
            )
    return dataclasses.replace(config, vocab_size=embed.shape[0])


def _ignored(name: str) -> bool:
    """Frequencies that old exports store; they follow from config.json."""
    return name.endswith("rotary_emb.inv_freq")


def _checked(
    tensors: dict[str, StoredTensor], config: ModelConfig, directory: pathlib.Path
) -> dict[str, StoredTensor]:
    """The model's tensors alone, or one error that names what is wrong."""
    specs = flat_specs(config)
    expected = {name: hf_shape(s) for s in specs.values() for name in hf_names(s, config)}
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise ValueError(
            f"tensor {_first(missing)} is missing from {directory}: get its files again, or "
            "correct config.json if it is of another model"
        )
    ignored = {name for name in tensors if _ignored(name)}
    head = tensors.get("lm_head.weight")
    if config.tie_embeddings and head and head.shape == (config.vocab_size, config.hidden_size):
        ignored.add("lm_head.weight")
    surplus = [name for name in tensors if name not in expected and name not in ignored]
    if surplus:
        raise ValueError(
            f"tensor {_first(surplus)} in {tensors[surplus[0]].file.path} does not belong to the "
            "model that config.json describes: remove it, or correct config.json"
        )
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise ValueError(
                f"tensor {name} in {tensor.file.path} has shape {list(tensor.shape)}; config.json "
                f"asks for {list(shape)}: correct config.json or get the file again"
            )
        _ = tensor.numpy_dtype
    return {name: tensors[name] for name in expected}


def _first(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more)"
