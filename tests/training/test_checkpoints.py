"""Checkpoints: what was saved comes back, the last few are kept, a failed save is survived."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsmath_jax.data.errors import InputError
from dsmath_jax.models import Transformer, preset
from dsmath_jax.models.sharding import make_mesh
from dsmath_jax.models.transformer import init_params
from dsmath_jax.stages.defaults import get_defaults
from dsmath_jax.training.checkpoints import Checkpoints
from dsmath_jax.training.optimizer import make_optimizer
from dsmath_jax.training.state import abstract_state, init_state

MODEL = preset("tiny", vocab_size=64, num_layers=1, hidden_size=16, intermediate_size=16)
CONFIG = get_defaults("rl")
CONFIG.checkpoint.every, CONFIG.checkpoint.keep = 2, 2
MESH = make_mesh(devices=jax.devices()[:1])
OPTIMIZER = make_optimizer(CONFIG.optimizer, 10)


@pytest.fixture(scope="module")
def state():
    params = init_params(MODEL, seed=1)
    return init_state(params, OPTIMIZER, MESH, MODEL, with_reference=True)


def at_step(state, step):
    return state._replace(
        step=jnp.int32(step),
        params=jax.tree.map(lambda x: x + step, state.params),
        history=jax.tree.map(lambda x: x + step, state.history),
    )


def abstract():
    return abstract_state(MODEL, OPTIMIZER, MESH, with_reference=True)


def test_saved_state_comes_back_bit_for_bit(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, CONFIG, MODEL)
    checkpoints.save(2, at_step(state, 2), {"next_index": 7})
    checkpoints.close()
    restored, position = Checkpoints(tmp_path, CONFIG, MODEL).restore(abstract())
    assert position == {"next_index": 7}
    jax.tree.map(np.testing.assert_array_equal, restored, at_step(state, 2))
    assert jax.tree.structure(restored) == jax.tree.structure(state)


def test_only_due_steps_are_saved_and_the_last_are_kept(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, CONFIG, MODEL)
    for step in range(1, 8):
        checkpoints.save(step, at_step(state, step), {}, force=step == 7)
    checkpoints.close()
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["6", "7"]


def test_other_shape_is_named(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, CONFIG, MODEL)
    checkpoints.save(2, state, {})
    checkpoints.close()
    other = preset("tiny", vocab_size=64, num_layers=2, hidden_size=16, intermediate_size=16)
    with pytest.raises(InputError, match="num_layers is 1 there and 2 in this configuration"):
        Checkpoints(tmp_path, CONFIG, other).restore(abstract())


def test_a_run_with_other_parts_of_the_state_is_told(tmp_path, state):
    ahead = {"tokens": jnp.zeros((2, 3), jnp.int32)}
    checkpoints = Checkpoints(tmp_path, CONFIG, MODEL)
    checkpoints.save(2, at_step(state, 2)._replace(ahead=ahead), {})
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, CONFIG, MODEL)
    restored, _ = checkpoints.restore(abstract()._replace(ahead=ahead))
    np.testing.assert_array_equal(restored.ahead["tokens"], ahead["tokens"])
    with pytest.raises(InputError, match=r"'ahead' is \[2, 3\], here it is None; set config.rl"):
        checkpoints.restore(abstract())
    with pytest.raises(
        InputError, match=r"'reference' is .*, here it is None; set config.rl.kl_co"
    ):
        checkpoints.restore(abstract()._replace(ahead=ahead, reference=None))


def test_a_failed_save_is_reported_and_the_next_one_works(tmp_path, state, monkeypatch, caplog):
    checkpoints = Checkpoints(tmp_path, CONFIG, MODEL)
    checkpoints.save(2, at_step(state, 2), {"n": 2})
    checkpoints.wait()
    with monkeypatch.context() as broken, caplog.at_level(logging.WARNING):

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        broken.setattr(checkpoints.manager, "save", full)
        checkpoints.save(4, at_step(state, 4), {"n": 4})
    assert "No space left on device" in caplog.text
    assert "the last good one is step 2" in caplog.text
    assert checkpoints.latest_step() == 2
    checkpoints.save(6, at_step(state, 6), {"n": 6})
    checkpoints.close()
    restored, position = Checkpoints(tmp_path, CONFIG, MODEL).restore(abstract())
    assert (int(restored.step), position) == (6, {"n": 6})


def test_donating_the_state_right_after_saving_does_not_change_what_is_saved(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, CONFIG, MODEL)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    moving = jax.tree.map(jnp.copy, at_step(state, 2))
    checkpoints.save(2, moving, {})
    for _ in range(5):
        moving = step(moving)
    checkpoints.close()
    restored, _ = Checkpoints(tmp_path, CONFIG, MODEL).restore(abstract())
    jax.tree.map(np.testing.assert_array_equal, restored.params, at_step(state, 2).params)


def test_parameters_alone_are_read_from_a_run(tmp_path, state):
    import dataclasses
    import json

    from dsmath_jax.models import load_params

    checkpoints = Checkpoints(tmp_path, CONFIG, MODEL)
    checkpoints.save(2, at_step(state, 2), {})
    checkpoints.close()
    (tmp_path / "model.json").write_text(json.dumps(dataclasses.asdict(MODEL)))
    params, config = load_params(tmp_path)
    assert config == MODEL
    jax.tree.map(np.testing.assert_array_equal, params, at_step(state, 2).params)
    assert Transformer(config, params=params)(jnp.ones((1, 3), jnp.int32)).shape == (1, 3, 64)


def largest_file(step_directory):
    files = (p for p in (step_directory / "state").rglob("*") if p.is_file())
    return max(files, key=lambda p: p.stat().st_size)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def three_saved(tmp_path, state):
    CONFIG.checkpoint.keep, keep = 3, CONFIG.checkpoint.keep
    checkpoints = Checkpoints(tmp_path, CONFIG, MODEL)
    for step in (2, 4, 6):
        checkpoints.save(step, at_step(state, step), {"n": step})
    checkpoints.close()
    CONFIG.checkpoint.keep = keep
    return tmp_path / "checkpoints"


@pytest.mark.parametrize(
    ("file", "harm", "said"),
    [
        (largest_file, cut, "bytes, not the"),
        (largest_file, flip, "differs from what was written"),
        (lambda d: d / "meta" / "metadata", flip, "meta/metadata differs"),
        (lambda d: d / "state" / "_METADATA", lambda p: p.unlink(), "state/_METADATA is missing"),
        (lambda d: d / "checksums.json", lambda p: p.unlink(), "checksums.json is missing"),
        (lambda d: d / "checksums.json", cut, "checksums.json cannot be read"),
    ],
)
def test_a_damaged_last_checkpoint_is_set_aside(file, harm, said, three_saved, state, caplog):
    harm(file(three_saved / "6"))
    checkpoints = Checkpoints(three_saved.parent, CONFIG, MODEL)
    assert said in caplog.text and "set aside as 6.damaged" in caplog.text
    restored, position = checkpoints.restore(abstract())
    assert position == {"n": 4}
    jax.tree.map(np.testing.assert_array_equal, restored, at_step(state, 4))
    assert (three_saved / "6.damaged" / "state").is_dir()
    checkpoints.save(6, at_step(state, 6), {"n": 6})  # once more, beside the damaged one
    checkpoints.close()
    assert Checkpoints(three_saved.parent, CONFIG, MODEL).latest_step() == 6


def test_two_damaged_checkpoints_and_one_that_was_set_aside_before(three_saved):
    (three_saved / "6.damaged").mkdir()
    for step in ("4", "6"):
        flip(largest_file(three_saved / step))
    assert Checkpoints(three_saved.parent, CONFIG, MODEL).latest_step() == 2
    names = {p.name for p in three_saved.iterdir()}
    assert names == {"2", "4.damaged", "6.damaged", "6.damaged-2"}


def test_a_run_whose_checkpoints_are_all_damaged_does_not_silently_begin_again(three_saved):
    for step in ("2", "4", "6"):
        cut(largest_file(three_saved / step))
    with pytest.raises(InputError, match=r"all 3 checkpoints in .* are damaged"):
        Checkpoints(three_saved.parent, CONFIG, MODEL)
    assert Checkpoints(three_saved.parent, CONFIG, MODEL).latest_step() is None


def test_times_that_orbax_writes_last_are_not_needed(three_saved, state):
    (three_saved / "6" / "_CHECKPOINT_METADATA").write_text("{")
    restored, _ = Checkpoints(three_saved.parent, CONFIG, MODEL).restore(abstract())
    jax.tree.map(np.testing.assert_array_equal, restored, at_step(state, 6))


def test_parameters_are_read_from_the_last_sound_checkpoint(three_saved, state, caplog):
    import dataclasses
    import json

    from dsmath_jax.models import load_params

    (three_saved.parent / "model.json").write_text(json.dumps(dataclasses.asdict(MODEL)))
    flip(largest_file(three_saved / "6"))
    params, _ = load_params(three_saved.parent)
    jax.tree.map(np.testing.assert_array_equal, params, at_step(state, 4).params)
    assert "checkpoints/6 is damaged" in caplog.text
    for step in ("2", "4"):
        flip(largest_file(three_saved / step))
    with pytest.raises(ValueError, match="checkpoints are all damaged"):
        load_params(three_saved.parent)
