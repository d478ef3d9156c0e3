"""Converts a checkpoint between Hugging Face's format and this project's (Orbax).

    python launch/convert.py --from=deepseek-math-7b-base --to=checkpoints/base
    python launch/convert.py --from=checkpoints/base --to=exported
    python launch/convert.py --from=runs/quickstart --to=exported --dtype=bfloat16

The files in --from tell the direction: config.json with *.safetensors or *.bin is Hugging Face's,
model.json with params/ is this project's, model.json with checkpoints/ a training run. Tokenizer
files are copied along. Needs memory for the parameters and 2 GB (a 7B model in bfloat16: 16 GB), or
a --mesh of accelerators that hold them.
"""

from dsmath_jax.models.convert import main

if __name__ == "__main__":
    main(__doc__)
