"""Writes a TFDS directory as the miner's corpus is one: array_record, no TensorFlow."""

import pathlib

import numpy as np
import pytest


def write_tfds(directory: pathlib.Path, splits: dict[str, list[str]]) -> pathlib.Path:
    """{split: texts} as records of the corpus, eight shards or so; returns NAME/VERSION."""
    tfds = pytest.importorskip("tensorflow_datasets")
    directory = directory / "1.0.0"
    directory.mkdir(parents=True)
    words = ("url", "domain", "text", "language", "source")
    features = tfds.features.FeaturesDict(
        {name: tfds.features.Text() for name in words}
        | {"score": np.float32, "iteration": np.int32}
    )
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="corpus",
        version=tfds.core.Version("1.0.0"),
        data_dir=str(directory),
        module_name="tests",
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features)
    longest = max(map(len, splits.values()))
    writer = tfds.core.SequentialWriter(
        info, max_examples_per_shard=max(longest // 8, 1), file_format="array_record"
    )
    writer.initialize_splits(list(splits))
    for split, texts in splits.items():
        record = {"domain": "b.c", "language": "en", "source": "web", "score": 0.9, "iteration": 1}
        rows = [record | {"url": f"https://b.c/{n}", "text": t} for n, t in enumerate(texts)]
        writer.add_examples({split: rows})
    writer.close_all()
    return directory
