"""The miner's corpus, in both forms, is what pretraining reads by its path."""

import json

import pytest

pytest.importorskip("pyarrow", reason="the extra `mining`")
pytest.importorskip("tensorflow_datasets", reason="the extra `data`")

from dsmath_jax.mining.export import export
from tests.mining.test_export import write_documents


def test_both_forms_train_alike(tmp_path, launch):
    files = write_documents(tmp_path / "in", each=60)
    export(files, tmp_path, iteration=1, heldout_share=0.3)
    paths = {
        "tfds": (tmp_path / "corpus", tmp_path / "corpus"),
        "parquet": (tmp_path / "corpus_parquet/train", tmp_path / "corpus_parquet/heldout"),
    }
    losses = []
    for name, (train, heldout) in paths.items():
        launch(
            "train.py",
            "--config=configs/pretrain_1_3b_tpu.py:smoke",
            f"--workdir={tmp_path / name}",
            f"--config.data.path={train}",
            f"--config.data.heldout_path={heldout}",
            "--config.data.text_field=text",
            "--config.length=64",
            "--config.model_changes.num_layers=1",
            "--config.log.tensorboard=False",
            check=True,
        )
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").open()]
        assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3]
        losses.append([row.get("loss", row.get("eval/loss")) for row in rows])
    assert losses[0] == losses[1] and losses[0][2] < losses[0][0]
    assert losses[0][-1] < 7  # on hosts that it has not seen
