"""Attention against a dense float64 numpy version, forward and backward."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from dsmath_jax.models import cudnn_attention, segment_features, splash
from dsmath_jax.models.attention import causal_attention, resolve_backend
from dsmath_jax.models.chunked_attention import chunked_attention
from dsmath_jax.models.sharding import MESH_AXES
from dsmath_jax.models.transformer import REMAT

BATCH, LENGTH, HEAD_DIM = 2, 13, 6
SEGMENTS = {
    "one": np.ones((BATCH, LENGTH), np.int32),
    "packed": np.array([[1] * 5 + [2] * 6 + [0] * 2, [0] * 3 + [1] * 1 + [2] * 9], np.int32),
    "padding_alone": np.array([[0] * LENGTH, [1] * LENGTH], np.int32),
}


def random_qkv(heads, kv_heads, dtype=jnp.float32):
    random = np.random.RandomState(0)
    sizes = [heads, kv_heads, kv_heads, heads]
    return [jnp.array(random.normal(size=(BATCH, LENGTH, n, HEAD_DIM)), dtype) for n in sizes]


def reference(q, k, v, segments, d_out, prefixes=None):
    """(out, dq, dk, dv), the whole [length, length] matrix at once."""
    q, k, v, d_out = (np.asarray(x, np.float64) for x in (q, k, v, d_out))
    kv_heads, group = k.shape[2], q.shape[2] // k.shape[2]
    k, v = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
    scale = 1 / np.sqrt(q.shape[-1])
    scores = np.einsum("bthd,bshd->bhts", q, k) * scale
    seen = np.tril(np.ones((q.shape[1], q.shape[1]), bool))
    own = segments if prefixes is None else prefixes
    seen = seen & (
        (segments[:, :, None] == segments[:, None, :]) | (own[:, :, None] == segments[:, None, :])
    )
    scores = np.where(seen[:, None], scores, -np.inf)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    out = np.einsum("bhts,bshd->bthd", p, v)

    dv = np.einsum("bhts,bthd->bshd", p, d_out)
    dp = np.einsum("bthd,bshd->bhts", d_out, v)
    ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) * scale
    dq = np.einsum("bhts,bshd->bthd", ds, k)
    dk = np.einsum("bhts,bthd->bshd", ds, q)

    def per_kv_head(x):
        return x.reshape(*x.shape[:2], kv_heads, group, -1).sum(axis=3)

    return out, dq, per_kv_head(dk), per_kv_head(dv)


@pytest.mark.parametrize(
    "chunk, kv_heads", [(4, 2), (5, 1), (5, 4), (12, 2), (13, 4), (512, 1), (512, 2), (512, 4)]
)
def test_equals_dense_float64_in_value_and_gradient(chunk, kv_heads):
    q, k, v, d_out = random_qkv(4, kv_heads)

    @jax.jit
    def value_and_gradient(q, k, v, segments):
        out, pull = jax.vjp(lambda *x: chunked_attention(*x, segments, segments, 0, chunk), q, k, v)
        return out, *pull(d_out)

    for segments in SEGMENTS.values():
        expected = reference(q, k, v, segments, d_out)
        actual = value_and_gradient(q, k, v, segments)
        for got, want in zip(actual, expected, strict=True):
            np.testing.assert_allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("backend", ["splash", "flash"])
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.06)])
def test_kernels_equal_dense_float64_in_value_and_gradient(backend, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(splash, "MAX_BLOCK", 128)
    length = 300  # three blocks, the last one padded
    random = np.random.RandomState(0)
    q, k, v, d_out = (
        jnp.array(random.normal(size=(3, length, n, 16)), dtype) for n in (4, 2, 2, 4)
    )
    segments = np.sort(random.randint(1, 4, (3, length)), axis=1).astype(np.int32)
    segments[0, length - 9 :] = 0
    segments[1, :7] = 0
    segments[2] = 0

    @jax.jit
    def value_and_gradient(q, k, v):
        def attend(q, k, v):
            return causal_attention(q, k, v, segments, backend, interpret=True)

        out, pull = jax.vjp(attend, q, k, v)
        return out, *pull(d_out)

    expected = reference(q, k, v, segments, d_out)
    for got, want in zip(value_and_gradient(q, k, v), expected, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got.astype(jnp.float32), want, atol=tolerance)


def prefixed_rows(random, batch, length):
    """Rows of prefixes, each with up to 20 segments that continue it, and padding: (ids of the
    segments, ids of their prefixes)."""
    segments, prefixes = np.zeros((2, batch, length), np.int32)
    for row in range(batch):
        at, last, end = 0, 0, length - random.randint(0, 9)
        while at < end:
            first = last + 1
            for last in range(first, first + random.randint(1, 21)):
                size = random.randint(1, 12)
                segments[row, at : at + size], prefixes[row, at : at + size] = last, first
                at += size
        segments[row, end:], prefixes[row, end:] = 0, 0
    return segments, prefixes


@pytest.mark.parametrize("backend", ["splash", "chunked"])
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.06)])
def test_segments_share_their_prefix_and_see_nothing_of_each_other(
    backend, dtype, tolerance, monkeypatch
):
    monkeypatch.setattr(splash, "MAX_BLOCK", 128)
    random = np.random.RandomState(0)
    segments, prefixes = prefixed_rows(random, 3, 300)
    assert (segments > prefixes).mean() > 0.5 and (segments - prefixes).max() > splash.BASE
    q, k, v, d_out = (jnp.array(random.normal(size=(3, 300, n, 16)), dtype) for n in (4, 2, 2, 4))

    @jax.jit
    def value_and_gradient(q, k, v):
        def attend(q, k, v):
            return causal_attention(q, k, v, segments, backend, True, prefixes)

        out, pull = jax.vjp(attend, q, k, v)
        return out, *pull(d_out)

    expected = reference(q, k, v, segments, d_out, prefixes)
    for got, want in zip(value_and_gradient(q, k, v), expected, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got.astype(jnp.float32), want, atol=tolerance)


def test_thousands_of_segments_are_told_apart():
    ids = np.arange(segment_features.BASE**segment_features.DIGITS)
    q, k = (np.asarray(x)[0] for x in segment_features.of_segments(ids[None]))
    np.testing.assert_array_equal(q @ k.T == 0, ids[:, None] == ids)
    q, k = (np.asarray(x)[0] for x in segment_features.of_answers(ids[None], 0 * ids[None]))
    np.testing.assert_array_equal(q[1:] @ k.T == 0, (ids[1:, None] == ids) | (ids == 0))


@pytest.mark.parametrize("with_prefixes", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 0.06)])
def test_what_cudnn_is_given_makes_causal_attention_that_of_segments(
    with_prefixes, dtype, tolerance, monkeypatch
):
    """The kernel itself needs a GPU; here plain causal attention is in its place."""
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")

    def plain(q, k, v, *, scale, mask_type):
        assert (q.shape[-1], v.shape[-1], mask_type) == (192, 128, cudnn.MaskType.CAUSAL)
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
        scores = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32) * scale
        scores = jnp.where(jnp.tril(jnp.ones((q.shape[1],) * 2, bool)), scores, -jnp.inf)
        weights = jax.nn.softmax(scores).astype(v.dtype)
        return jnp.einsum("bhts,bshd->bthd", weights, v)

    monkeypatch.setattr(cudnn, "dot_product_attention", plain)
    random = np.random.RandomState(0)
    segments, prefixes = prefixed_rows(random, 3, 300)
    q, k, v, d_out = (jnp.array(random.normal(size=(3, 300, n, 16)), dtype) for n in (4, 2, 2, 4))
    ids = (segments, prefixes) if with_prefixes else (segments,)

    @jax.jit
    def value_and_gradient(q, k, v):
        out, pull = jax.vjp(lambda *x: cudnn_attention.cudnn_attention(*x, *ids), q, k, v)
        return out, *pull(d_out)

    expected = reference(q, k, v, segments, d_out, prefixes if with_prefixes else None)
    for got, want in zip(value_and_gradient(q, k, v), expected, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got.astype(jnp.float32), want, atol=tolerance)


def test_flash_refuses_prefixes():
    q = jnp.zeros((1, 8, 2, 16))
    ids = jnp.ones((1, 8), jnp.int32)
    with pytest.raises(ValueError, match="knows no prefixes"):
        causal_attention(q, q, q, ids, "flash", True, ids)


def mesh_of(platform, sequence=1):
    """A mesh of one device (or `sequence`) of a kind that this machine need not have."""
    name = {"gpu": "NVIDIA H200"}.get(platform, platform)
    kind = jax.sharding.AbstractDevice(device_kind=name, num_cores=1, platform=platform)
    shape, types = (1, 1, 1, sequence), (AxisType.Auto,) * 4
    return jax.sharding.AbstractMesh(shape, MESH_AXES, axis_types=types, abstract_device=kind)


def test_flash_lowers_for_cuda_without_an_array_of_length_by_length():
    length = 4096

    def gradient(q, k, v, segments, d_out):
        return jax.vjp(lambda *x: causal_attention(*x, segments), q, k, v)[1](d_out)

    def spec(heads):
        return jax.ShapeDtypeStruct((2, length, heads, 128), jnp.bfloat16)

    segments = jax.ShapeDtypeStruct((2, length), jnp.int32)
    with jax.sharding.use_abstract_mesh(mesh_of("gpu")):
        traced = jax.jit(gradient).trace(spec(8), spec(2), spec(2), segments, spec(8))
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    kernels = re.findall(r'name = "(mha_\w+)"', text)
    assert set(kernels) == {"mha_forward", "mha_preprocess_backward", "mha_backward"}
    shapes = re.findall(r"tensor<([\dx]+)x[a-z]", text)
    assert shapes and not any(s.split("x").count(str(length)) > 1 for s in shapes)


def test_backend_is_that_of_the_devices_the_program_is_for():
    resolve = functools.partial(resolve_backend, dtype=jnp.bfloat16)
    assert resolve("auto", mesh_of("tpu")) == "splash"
    assert resolve("auto", mesh_of("gpu")) == "flash"
    assert resolve("auto", mesh_of("cpu")) == "chunked"
    assert resolve("chunked", mesh_of("tpu", sequence=2)) == "chunked"
    for arguments, message in (
        (("dense", mesh_of("cpu")), "choose one of auto, splash, cudnn, flash, chunked"),
        (("splash", mesh_of("cpu")), "'splash' does not run on cpu"),
        (("auto", mesh_of("gpu", sequence=2)), "set mesh size sequence=1"),
        (("cudnn", mesh_of("tpu")), "'cudnn' does not run on tpu"),
        (("cudnn", mesh_of("gpu")), "needs cuDNN"),  # this machine has none
    ):
        with pytest.raises(ValueError, match=message):
            resolve(*arguments)
    with pytest.raises(ValueError, match="bfloat16 or float16, not float32"):
        resolve_backend("cudnn", mesh_of("gpu"), jnp.float32)


def test_auto_on_a_gpu_is_cudnn_where_it_can_be(monkeypatch):
    assert resolve_backend("auto", mesh_of("gpu"), jnp.bfloat16, 128) == "flash"  # has none here
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda least: True)
    resolve = functools.partial(resolve_backend, "auto", mesh_of("gpu"))
    assert resolve(jnp.bfloat16, 128) == "cudnn"
    assert resolve(jnp.bfloat16, 256) == resolve(jnp.float32, 128) == "flash"
    with pytest.raises(ValueError, match="heads of at most 128 dimensions, not 256"):
        resolve_backend("cudnn", mesh_of("gpu"), jnp.bfloat16, 256)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda least: False)
    assert resolve(jnp.bfloat16, 128) == "flash"


def test_cudnn_lowers_for_cuda_without_an_array_of_length_by_length(monkeypatch):
    cudnn = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda least: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda other: False)
    length = 4096

    def block(q, k, v, segments, prefixes):
        def attend(q, k, v):
            q, k, v = (jnp.sin(x) for x in (q, k, v))
            return causal_attention(q, k, v, segments, "cudnn", prefix_ids=prefixes)

        attend = jax.checkpoint(attend, policy=REMAT["attention"])
        return jax.grad(lambda *x: attend(*x).astype(jnp.float32).sum(), (0, 1, 2))(q, k, v)

    def spec(heads):
        return jax.ShapeDtypeStruct((2, length, heads, 128), jnp.bfloat16)

    ids = jax.ShapeDtypeStruct((2, length), jnp.int32)
    with jax.sharding.use_abstract_mesh(mesh_of("gpu")):
        traced = jax.jit(block).trace(spec(8), spec(2), spec(2), ids, ids)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r"@(__cudnn\$\w+)", text)  # the forward pass runs once: its results are kept
    assert sorted(calls) == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    shapes = re.findall(r"tensor<([\dx]+)x[a-z]", text)
    assert shapes and not any(s.split("x").count(str(length)) > 1 for s in shapes)


def test_the_first_token_sees_itself_and_the_second_the_mean_by_hand():
    q = jnp.zeros((1, 2, 1, 2))
    v = jnp.array([[[[1.0, 2.0]], [[3.0, 6.0]]]])
    out = causal_attention(q, q, v, jnp.ones((1, 2), jnp.int32))
    np.testing.assert_allclose(out[0, :, 0], [[1, 2], [2, 4]])


@pytest.mark.parametrize("chunk", [4, 512])
def test_later_tokens_and_other_segments_change_nothing(chunk):
    q, k, v, _ = random_qkv(4, 2)
    segments = SEGMENTS["packed"]
    attend = jax.jit(lambda k, v: chunked_attention(q, k, v, segments, segments, 0, chunk))
    out = attend(k, v)
    # In row 0, tokens 5 to 10 are segment 2; token 7 sees 5, 6 and 7.
    other = np.r_[0:5, 8:LENGTH]
    changed = attend(k.at[0, other].set(99.0), v.at[0, other].set(99.0))
    assert np.array_equal(out[0, 5:8], changed[0, 5:8])


@pytest.mark.parametrize("chunk", [4, 512])
def test_bfloat16_keeps_its_type_and_stays_close(chunk):
    q, k, v, d_out = random_qkv(4, 2, jnp.bfloat16)
    segments = SEGMENTS["packed"]
    out = jax.jit(chunked_attention, static_argnums=6)(q, k, v, segments, segments, 0, chunk)
    assert out.dtype == jnp.bfloat16
    expected = reference(q, k, v, SEGMENTS["packed"], d_out)[0]
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.03)


@pytest.mark.parametrize("chunk", [4, 512])
def test_extreme_scores_stay_finite(chunk):
    q, k, v, d_out = random_qkv(4, 2)

    @jax.jit
    def value_and_gradient(*qkv):
        segments = SEGMENTS["packed"]
        out, pull = jax.vjp(lambda *x: chunked_attention(*x, segments, segments, 0, chunk), *qkv)
        return out, *pull(d_out)

    assert all(np.all(np.isfinite(x)) for x in value_and_gradient(1e4 * q, 1e4 * k, v))


def test_jit_agrees():
    q, k, v, _ = random_qkv(4, 2)
    args = (q, k, v, SEGMENTS["packed"])
    np.testing.assert_allclose(jax.jit(causal_attention)(*args), causal_attention(*args), atol=1e-6)


def test_no_array_is_length_by_length():
    length, chunk = 96, 32
    x = jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)
    segments = jnp.ones((1, length), jnp.int32)
    step = jax.grad(
        lambda q, k, v: chunked_attention(q, k, v, segments, segments, 0, chunk).sum(), (0, 1, 2)
    )
    shapes = re.findall(r"[a-z]+\d+\[([\d,]+)\]", str(jax.make_jaxpr(step)(x, x, x)))
    assert shapes and not any(s.split(",").count(str(length)) > 1 for s in shapes)
