"""The decoder-only transformer: one layer's code, scanned over parameters stacked by layer."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from dsmath_jax.losses.row_matmul import row_matmul, row_matmuls
from dsmath_jax.models.attention import BACKENDS, causal_attention, platform
from dsmath_jax.models.config import ModelConfig
from dsmath_jax.models.cudnn_attention import kept_for_backward
from dsmath_jax.models.embedding import embed_tokens
from dsmath_jax.models.parameters import init_param, param_specs
from dsmath_jax.models.rope import cos_sin, rotate
from dsmath_jax.models.sharding import constrain

POLICIES = jax.checkpoint_policies
ATTENTION = POLICIES.save_from_both_policies(
    POLICIES.save_only_these_names("attention_residuals"), kept_for_backward
)

# What the backward pass finds of a layer; the rest it computes again.
REMAT = {
    "none": None,
    "dots": POLICIES.save_from_both_policies(POLICIES.dots_with_no_batch_dims_saveable, ATTENTION),
    "attention": ATTENTION,
    "full": POLICIES.nothing_saveable,
    "offload": POLICIES.save_and_offload_only_these_names(
        names_which_can_be_saved=["attention_residuals"],
        names_which_can_be_offloaded=["layer_input"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}

QKV, GATE_UP = ("wq", "wk", "wv"), ("w_gate", "w_up")  # matrices that multiply the same


class Layers(nnx.Module):
    """Parameters of all layers, stacked on the first axis (`parameters.param_specs`)."""

    def __init__(self, params: dict[str, jax.Array]):
        for name, value in params.items():
            setattr(self, name, nnx.Param(value))


class Transformer(nnx.Module):
    """A Llama-family language model.

    Parameters are kept in `param_dtype` (float32 master weights when training) and computed with in
    `dtype`; norms, softmax and logits are float32.

    Args:
      config: its shapes.
      seed: of the initialisation; the same numbers on any mesh.
      params: use these (nested dict of arrays, structured as `param_specs`), not random ones.
      dtype: of the computation.
      param_dtype: of random parameters.
      remat: what the backward pass finds of a layer beside its input: "none" all, "dots" matrix
        products and attention's result, "attention" that result, "full" nothing; "offload" is
        "attention" with the layers' inputs in the host's memory.
      attention: "auto", or which of `attention.BACKENDS`.
      unroll: layers that one turn of the loop over them computes. Of all of them there is no loop:
        a GPU copies neither weights out of their stack nor results into one, and compiles longer.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        seed: int = 0,
        params: dict[str, Any] | None = None,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        remat: str = "none",
        attention: str = "auto",
        unroll: int = 1,
    ):
        if remat not in REMAT:
            raise ValueError(f"remat={remat!r} is unknown; choose one of {', '.join(REMAT)}")
        if attention not in BACKENDS:
            known = ", ".join(BACKENDS)
            raise ValueError(f"attention={attention!r} is unknown; choose one of {known}")
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.remat = remat
        self.attention = attention
        self.unroll = min(unroll, config.num_layers)
        if unroll < 1:
            raise ValueError(f"unroll={unroll} must be at least 1")
        if params is None:
            params = init_params(config, seed, param_dtype)
        self.embed = nnx.Param(params["embed"])
        self.layers = Layers(params["layers"])
        self.final_norm = nnx.Param(params["final_norm"])
        if not config.tie_embeddings:
            self.head = nnx.Param(params["head"])

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
    ) -> jax.Array:
        """tokens [batch, length] -> float32 logits [batch, length, vocab]."""
        return logits(self.hidden(tokens, positions, segment_ids), self.output_head())

    def hidden(
        self,
        tokens: jax.Array,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        prefix_ids: jax.Array | None = None,
    ) -> jax.Array:
        """Last hidden states [batch, length, hidden_size], normalised, ready for the head.

        Args:
          tokens: [batch, length] int.
          positions: [batch, length] int; by default each segment counts from 0.
          segment_ids: [batch, length] int, 0 for padding; by default one segment a row.
          prefix_ids: [batch, length] int, the segment that each one continues (see
            `attention.causal_attention`); positions are then to be given.
        """
        return self._forward(tokens, positions, segment_ids, False, prefix_ids)[0]

    def output_head(self) -> jax.Array:
        """[hidden_size, vocab] in the computation's dtype, for `losses.token_logprobs`."""
        head = self.embed[...].T if self.config.tie_embeddings else self.head[...]
        return head.astype(self.dtype)

    def _forward(self, tokens, positions, segment_ids, with_kv: bool, prefix_ids=None):
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        if positions is None:
            positions = positions_of(segment_ids)
        x = embed_tokens(self.embed[...], tokens, self.dtype)
        x = constrain(x, "batch", "length", "hidden")
        cos, sin = cos_sin(self.config, positions)
        on_gpu = platform(jax.sharding.get_abstract_mesh()) == "gpu"

        def body(x, params):
            x = checkpoint_name(x, "layer_input")

            def attend(q, k, v):
                out = causal_attention(q, k, v, segment_ids, self.attention, prefix_ids=prefix_ids)
                if not with_kv:
                    return out, None
                # Without a barrier XLA:GPU computes v twice, once where the scan collects it.
                return out, jax.lax.optimization_barrier((k, v)) if on_gpu else (k, v)

            x, kv = self._layer(params, x, cos, sin, attend)
            return constrain(x, "batch", "length", "hidden"), kv

        if self.remat != "none":
            # Without a loop the compiler would keep what is to be computed again; of "dots" that is
            # little, and faster so.
            prevent = self.unroll == self.config.num_layers and self.remat != "dots"
            body = jax.checkpoint(body, policy=REMAT[self.remat], prevent_cse=prevent)
        x, kv = jax.lax.scan(body, x, self.stacked(), unroll=self.unroll)
        return rms_norm(x, self.final_norm[...], self.config.norm_eps), kv

    def prefill(self, tokens: jax.Array, lengths: jax.Array):
        """Reads prompts [questions, prompt_length], padded on the right to `lengths`.

        Returns:
          (hidden of each prompt's last token [questions, hidden_size], keys, values, each
          [layers, questions, prompt_length, kv_heads, head_dim]).
        """
        segment_ids = (jnp.arange(tokens.shape[1])[None, :] < lengths[:, None]).astype(jnp.int32)
        x, (k, v) = self._forward(tokens, None, segment_ids, with_kv=True)
        last = jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)[:, 0]
        return last, k, v

    def read(self, tokens: jax.Array, positions: jax.Array, attend: Any, kept: Any, layers: Any):
        """Reads tokens [rows, n] that continue others, at their positions [rows, n].

        Args:
          attend: (q [rows, n, heads, head_dim], k, v [rows, n, kv_heads, head_dim], what `kept` has
            for the layer) -> (output as q, what is to be kept of the layer).
          kept, layers: lists of the same length, whose parts make up all layers: trees of arrays
            stacked by layer, of what `attend` gets and of the layers' parameters. A part of several
            layers is scanned.

        Returns:
          (hidden [rows, n, hidden_size], what attend kept, in parts like `kept`).
        """
        cos, sin = cos_sin(self.config, positions)

        def body(x, inputs):
            params, kept = inputs
            return self._layer(params, x, cos, sin, lambda q, k, v: attend(q, k, v, kept))

        x = self.embed[...][tokens].astype(self.dtype)
        new = []
        for part in zip(layers, kept, strict=True):
            if jax.tree.leaves(part)[0].shape[0] == 1:
                x, of_layer = body(x, jax.tree.map(lambda a: a[0], part))
                new.append(jax.tree.map(lambda a: a[None], of_layer))
            else:
                x, of_layers = jax.lax.scan(body, x, part)
                new.append(of_layers)
        return rms_norm(x, self.final_norm[...], self.config.norm_eps), new

    def stacked(self) -> dict[str, jax.Array]:
        """The layers' parameters, stacked by layer."""
        return nnx.to_pure_dict(nnx.state(self.layers))

    def _layer(self, params, x, cos, sin, attend):
        """x [batch, length, hidden]; attend(q, k, v) gives (output, whatever it wants to keep)."""
        c, p = self.config, jax.tree.map(lambda w: w.astype(self.dtype), params)
        h = rms_norm(x, p["attn_norm"], c.norm_eps)
        if "wqkv" in p:
            ends = c.num_heads * c.head_dim, (c.num_heads + c.num_kv_heads) * c.head_dim
            q, k, v = jnp.split(row_matmul(h, p["wqkv"]), ends, axis=-1)
        else:
            q, k, v = row_matmuls(h, [p[name] for name in QKV])
        if c.qkv_bias:
            q, k, v = q + p["bq"], k + p["bk"], v + p["bv"]
        q = rotate(q.reshape(*q.shape[:2], c.num_heads, c.head_dim), cos, sin)
        k = rotate(k.reshape(*k.shape[:2], c.num_kv_heads, c.head_dim), cos, sin)
        v = v.reshape(*v.shape[:2], c.num_kv_heads, c.head_dim)
        out, kept = attend(q, k, v)
        x = x + row_matmul(out.reshape(*x.shape[:2], -1), p["wo"])
        h = rms_norm(x, p["mlp_norm"], c.norm_eps)
        if "w_gate_up" in p:
            gate, up = jnp.split(row_matmul(h, p["w_gate_up"]), 2, axis=-1)
        else:
            gate, up = row_matmuls(h, [p[name] for name in GATE_UP])
        h = jax.nn.silu(gate) * up
        return x + row_matmul(h, p["w_down"]), kept


def side_by_side(layers: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Parameters of layers with the matrices of one input as one, which a step of few rows reads
    faster; for `Transformer.read`."""
    apart = {name: x for name, x in layers.items() if name not in (*QKV, *GATE_UP)}
    joined = {"wqkv": QKV, "w_gate_up": GATE_UP}
    return apart | {
        name: jnp.concatenate([layers[part] for part in parts], axis=-1)
        for name, parts in joined.items()
    }


def init_params(config: ModelConfig, seed: int, dtype: Any = jnp.float32) -> dict[str, Any]:
    """Random parameters, nested as `param_specs`."""
    key = jax.random.key(seed)

    def init(path, spec):
        name = ".".join(p.key for p in path)
        return init_param(name, spec, key, config.init_std, dtype)

    return jax.tree_util.tree_map_with_path(init, param_specs(config))


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return normed.astype(x.dtype) * scale.astype(x.dtype)


def logits(hidden: jax.Array, head: jax.Array) -> jax.Array:
    """hidden [..., hidden_size] @ head [hidden_size, vocab] -> float32 [..., vocab]."""
    return row_matmul(hidden, head, jnp.float32)


def positions_of(segment_ids: jax.Array) -> jax.Array:
    """[batch, length] -> each token's index within its segment."""
    index = jnp.arange(segment_ids.shape[1])[None, :]
    starts = jnp.diff(segment_ids, axis=1, prepend=segment_ids[:, :1]) != 0
    return index - jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
