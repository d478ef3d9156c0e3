"""Checkpoints of a training: asynchronous, with checksums, safe to kill at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from dsmath_jax.data.errors import InputError
from dsmath_jax.models.checkpoint import checkpoint_steps
from dsmath_jax.models.checksums import damage_seen_by_any, write_checksums
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.training.errors import TrainingError
from dsmath_jax.training.state import TrainState

log = logging.getLogger(__name__)


class Checkpoints:
    """`workdir/checkpoints/STEP/`: the state, the data iterator's position and the model's shape.

    Saving happens beside the training; the state may be donated right after. A directory gets its
    name once it is whole, with the checksums of its files in it. A save that fails (a full disk) is
    reported and removed; the run goes on, and the last good checkpoint stays. With several
    processes, which share the filesystem, it ends the run: they could not go on as one.

    Opening verifies the last checkpoint. A damaged one is reported and set aside as STEP.damaged,
    and the one before takes its place.

    Raises:
      InputError: there are checkpoints, and all are damaged.
    """

    def __init__(self, workdir: pathlib.Path, config: ConfigDict, model_config: ModelConfig):
        self.directory = (workdir / "checkpoints").absolute()
        self._set_damaged_aside()
        self.stage = config.stage
        self.shape = dataclasses.asdict(model_config)
        self.options = config.checkpoint
        self.manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self.directory,
            item_names=("state", "meta"),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=self.options.keep,
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(
                    post_finalization_callback=self._checksum,
                    barrier_sync_fn=self._checksum_own_and_wait,
                ),
            ),
        )

    def _partial(self) -> pathlib.Path:
        """Where Orbax writes the save under way, until it renames it to STEP."""
        return next(self.directory.glob(f"{self.saving}.orbax-checkpoint-tmp*"))

    def _checksum(self) -> None:
        """The first process, when all have written and before the rename."""
        write_checksums(self._partial())

    def _checksum_own_and_wait(self, *, key: str, timeout_ms: int) -> None:
        """Each process, when it has written its own files and will wait for the others."""
        own = f"state/ocdbt.process_{jax.process_index()}"
        if "write_complete" in key and (self._partial() / own).is_dir():
            write_checksums(self._partial(), own)
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)

    def _set_damaged_aside(self) -> None:
        steps = checkpoint_steps(self.directory)
        for step in reversed(steps):
            problem = damage_seen_by_any(self.directory / str(step))
            if not problem:
                return
            log.warning(
                "checkpoint %s is damaged (%s): it is set aside as %s.damaged", step, problem, step
            )
            if jax.process_index() == 0:
                _rename_aside(self.directory / str(step))
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices(f"{step} is set aside")
        if steps:
            raise InputError(
                f"all {len(steps)} checkpoints in {self.directory} are damaged and set aside there "
                "as STEP.damaged: the same command now begins at step 0"
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

    def _check_parts(self, abstract: TrainState) -> None:
        meta = self.manager.restore(
            self.latest_step(), args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        )["meta"]
        fields = {"reference": "config.rl.kl_coef (0: none)", "ahead": "config.rl.ahead and sizes"}
        saved, here = meta.get("parts", {}), _shapes(abstract)
        for name in fields:
            if saved and saved.get(name) != here.get(name):
                raise InputError(
                    f"{self.directory / str(self.latest_step())} was saved with other settings: "
                    f"its part {name!r} is {saved.get(name)}, here it is {here.get(name)}; set "
                    f"{fields[name]} as they were, or another --workdir"
                )

    def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The last state, laid out as `abstract`, and the data iterator's position.

        Raises:
          InputError: see `check`.
        """
        self.check()
        self._check_parts(abstract)
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(_parts(abstract)), meta=ocp.args.JsonRestore()
        )
        restored = self.manager.restore(self.latest_step(), args=args)
        return TrainState(**restored["state"]), restored["meta"]["data"]

    def save(
        self, step: int, state: TrainState, data: dict[str, Any], *, force: bool = False
    ) -> None:
        """Saves when the step is due (or `force`d), in the background."""
        due = force or step % self.options.every == 0
        if not due or step in self.manager.all_steps():
            return
        self.wait()
        self.saving = step
        meta = {"stage": self.stage, "model": self.shape, "data": data, "parts": _shapes(state)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_parts(state)), meta=ocp.args.JsonSave(meta)
        )
        try:
            self.manager.save(step, args=args, force=True)
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
        if jax.process_count() > 1:
            if isinstance(error, jax.errors.JaxRuntimeError | TimeoutError):
                raise error
            raise TrainingError(
                f"saving a checkpoint failed ({_first_line(error)}): when that is repaired, the "
                "same command goes on from the last good one"
            )
        with contextlib.suppress(Exception):  # it reports the same failure once more
            self.manager.close()
        for partial in self.directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(partial, ignore_errors=True)
        self.manager = self._open()
        good = self.latest_step()
        log.warning(
            "saving a checkpoint failed (%s); the run goes on, %s",
            _first_line(error),
            "with no good checkpoint yet" if good is None else f"the last good one is step {good}",
        )


def _parts(state: TrainState) -> dict[str, Any]:
    """Without what was generated ahead where nothing is: older checkpoints do not know it."""
    parts = state._asdict()
    return {name: x for name, x in parts.items() if name != "ahead" or x is not None}


def _shapes(state: TrainState) -> dict[str, list[int]]:
    """Of each part's first array, by which runs with other settings are told."""
    leaves = ((name, jax.tree.leaves(part)) for name, part in _parts(state).items())
    return {name: list(arrays[0].shape) for name, arrays in leaves if arrays}


def _rename_aside(directory: pathlib.Path) -> None:
    place, number = directory.with_name(f"{directory.name}.damaged"), 2
    while place.exists():
        place = directory.with_name(f"{directory.name}.damaged-{number}")
        number += 1
    directory.rename(place)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
