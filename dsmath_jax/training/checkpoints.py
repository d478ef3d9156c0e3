"""Checkpoints of a training: asynchronous, the last few kept, safe to kill at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import shutil
from typing import Any

import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from dsmath_jax.data.errors import InputError
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.training.state import TrainState

log = logging.getLogger(__name__)


class Checkpoints:
    """`workdir/checkpoints/STEP/`: the state, the data iterator's position and the model's shape.

    A save that fails (a full disk) is reported and removed; the run goes on, and the last good
    checkpoint stays. Saving happens beside the training; the state may be donated right after.
    """

    def __init__(self, workdir: pathlib.Path, config: ConfigDict, model_config: ModelConfig):
        self.directory = workdir / "checkpoints"
        self.stage = config.stage
        self.shape = dataclasses.asdict(model_config)
        self.options = config.checkpoint
        self.manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.directory.absolute(),
            item_names=("state", "meta"),
            options=ocp.CheckpointManagerOptions(
                save_interval_steps=self.options.every,
                max_to_keep=self.options.keep,
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,
            ),
        )

    def latest_step(self) -> int | None:
        return self.manager.latest_step()

    def check(self) -> None:
        """Refuses to go on from a checkpoint that this configuration does not fit.

        Raises:
          InputError: the checkpoint is of another model's shape (a differing field is named).
        """
        step = self.latest_step()
        if step is None:
            return
        meta = self.manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))
        if meta["meta"]["stage"] != self.stage:
            raise InputError(
                f"{self.directory / str(step)} is of stage {meta['meta']['stage']!r}, this "
                f"configuration of {self.stage!r}: use another --workdir"
            )
        for field, value in self.shape.items():
            saved = meta["meta"]["model"].get(field)
            if saved != value:
                raise InputError(
                    f"{self.directory / str(step)} is of another model: {field} is {saved} there "
                    f"and {value} in this configuration; use that model or another --workdir"
                )

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The last state, laid out as `abstract`, and the data iterator's position.

        Raises:
          InputError: see `check`.
        """
        self.check()
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract._asdict()), meta=ocp.args.JsonRestore()
        )
        restored = self.manager.restore(self.latest_step(), args=args)
        return TrainState(**restored["state"]), restored["meta"]["data"]

    def save(
        self, step: int, state: TrainState, data: dict[str, Any], *, force: bool = False
    ) -> None:
        """Saves when the step is due (or `force`d), in the background."""
        if step in self.manager.all_steps() or not (force or self.manager.should_save(step)):
            return
        self.wait()
        meta = {"stage": self.stage, "model": self.shape, "data": data}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state._asdict()), meta=ocp.args.JsonSave(meta)
        )
        try:
            self.manager.save(step, args=args, force=force)
        except Exception as e:  # Orbax raises whatever its storage raises
            self._failed(e)

    def wait(self) -> None:
        """Returns once the save under way is on disk, or was reported as failed."""
        try:
            self.manager.wait_until_finished()
            self.manager.check_for_errors()
        except Exception as e:
            self._failed(e)

    def close(self) -> None:
        self.wait()
        self.manager.close()

    def _failed(self, error: Exception) -> None:
        """Reports, frees what the failed save wrote, and reads again what is on disk: the manager
        would else count the failed step among those it keeps."""
        with contextlib.suppress(Exception):  # it reports the same failure once more
            self.manager.close()
        for partial in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(partial, ignore_errors=True)
        self.manager = self._open()
        good = self.latest_step()
        log.warning(
            "saving a checkpoint failed (%s); the run goes on, %s",
            str(error).strip().split("\n")[0][:300],
            "with no good checkpoint yet" if good is None else f"the last good one is step {good}",
        )
