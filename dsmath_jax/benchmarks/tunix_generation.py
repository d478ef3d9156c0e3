"""The same generation by tunix's Sampler. A script for the Python of an environment that holds
google-tunix: it imports nothing of this project.

Reads a line of settings, says that it is ready, and answers each line {"seed"} with a call's
{"seconds", "tokens"}.
"""

import json
import os
import sys
import time


class Numbers:
    """A tokenizer for texts that are ids, written with spaces; 1 begins a text."""

    def encode(self, text, **_):
        return [int(word) for word in text.split()]

    def decode(self, ids, **_):
        return " ".join(map(str, ids))

    def bos_id(self):
        return 1

    def eos_id(self):
        return 2

    def pad_id(self):
        return 0


def make_sampler(settings):
    from flax import nnx
    from tunix.generate import sampler
    from tunix.models.llama3 import model

    shape = settings["model"]
    cache = {
        "num_layers": shape["num_hidden_layers"],
        "num_kv_heads": shape["num_key_value_heads"],
        "head_dim": shape["head_dim"],
    }
    config = model.ModelConfig(
        vocab_size=shape["vocab_size"],
        embed_dim=shape["hidden_size"],
        hidden_dim=shape["intermediate_size"],
        num_heads=shape["num_attention_heads"],
        rope_theta=int(shape["rope_theta"]),
        norm_eps=shape["rms_norm_eps"],
        **cache,
    )
    llama = model.Llama3(config, rngs=nnx.Rngs(params=0))
    length = len(settings["prompts"][0]) + settings["max_new_tokens"]
    return sampler.Sampler(llama, Numbers(), sampler.CacheConfig(cache_size=length, **cache))


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    settings = json.loads(sys.stdin.readline())
    sampler = make_sampler(settings)
    print('"ready"', file=answers, flush=True)
    # It puts the 1 before each text itself.
    texts = [" ".join(map(str, ids[1:])) for ids in settings["prompts"]]
    texts = [text for text in texts for _ in range(settings["group"])]
    for line in sys.stdin:
        before = time.perf_counter()
        output = sampler(
            texts,
            max_generation_steps=settings["max_new_tokens"],
            max_prompt_length=len(settings["prompts"][0]),
            temperature=settings["temperature"],
            top_p=1.0,
            seed=json.loads(line)["seed"],
            eos_tokens=settings["ending_ids"],
            return_logprobs=True,
        )
        seconds = time.perf_counter() - before
        lengths = [len(ids) for ids in output.tokens]
        # The token that ends a sample is not among these, but was generated.
        tokens = sum(n + (n < settings["max_new_tokens"]) for n in lengths)
        print(json.dumps({"seconds": seconds, "tokens": tokens}), file=answers, flush=True)


if __name__ == "__main__":
    main()
