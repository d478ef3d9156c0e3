"""Exploration: questions are answered by the policy's weights and graded, now or a step ahead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from dsmath_jax.data.batches import Batches
from dsmath_jax.data.tokenizers import Tokenizer
from dsmath_jax.rollout import Sampler, Samples
from dsmath_jax.rollout.sampler import gather
from dsmath_jax.stages.rl_rewards import Grader, rewards_of
from dsmath_jax.training.loop import Phases

Question = dict[str, Any]


class Groups(NamedTuple):
    """Questions, a group of graded samples for each.

    verdicts: [questions, group] int8, see `rl_rewards.VERDICTS`.
    weights_step: [questions], the step after which the weights were taken that generated.
    """

    questions: list[Question]
    samples: Samples
    verdicts: np.ndarray
    weights_step: np.ndarray

    @property
    def rewards(self) -> np.ndarray:
        return rewards_of(self.verdicts)

    @property
    def all_equal(self) -> np.ndarray:
        """[questions]: whether all samples got one reward, which teaches GRPO nothing."""
        return self.rewards.max(axis=1) == self.rewards.min(axis=1)

    def chosen(self, where: Sequence[int] | np.ndarray) -> Groups:
        arrays = (x[where] for x in _arrays(self.samples))
        questions = [self.questions[i] for i in where]
        return Groups(questions, Samples(*arrays), self.verdicts[where], self.weights_step[where])

    def best(self, count: int) -> Groups:
        """`count` of them: those with unequal rewards first, otherwise in their order."""
        return self.chosen(np.sort(np.argsort(self.all_equal, kind="stable")[:count]))


def joined(parts: Sequence[Groups]) -> Groups:
    samples = zip(*(_arrays(part.samples) for part in parts), strict=True)
    return Groups(
        [question for part in parts for question in part.questions],
        Samples(*(np.concatenate(arrays) for arrays in samples)),
        np.concatenate([part.verdicts for part in parts]),
        np.concatenate([part.weights_step for part in parts]),
    )


class Explorer:
    """Answers and grades batches of questions with given weights, in a thread. Where the sampler's
    mesh is of this host alone it speaks to no other, and updates may run beside it.

    Args:
      num_examples: of the data, to tell apart draws for a question that comes twice in a step.
    """

    def __init__(
        self, config: ConfigDict, sampler: Sampler, tokenizer: Tokenizer, num_examples: int
    ):
        self.rl, self.seed = config.rl, config.seed
        self.sampler, self.tokenizer, self.num_examples = sampler, tokenizer, num_examples
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="generation")

    def begin(
        self,
        weights: Any,
        weights_step: int,
        batch: list[Question],
        step: int,
        before: Sequence[Question] = (),
    ) -> Callable[[Phases], Groups]:
        """Begins with a batch; gives a function that waits for its groups, which all hosts call in
        the same order. Its phase "reward" is what grading takes after the last sample has ended.

        Args:
          weights_step: the step after which the weights were taken.
          step: the one that the batch is for.
          before: the questions of this step that were answered before.
        """
        draws = draw_ids([*before, *batch], self.num_examples)[len(before) :]
        options = {"seed": self.seed, "step": step, "example_ids": draws}
        group, temperature = self.rl.group, self.rl.temperature
        return self._begin(weights, weights_step, batch, group, temperature, options)

    def heldout(
        self, weights: Any, questions: list[Question], temperature: float, phases: Phases
    ) -> Groups:
        """One sample of each question, the same draws at every step."""
        options = {"seed": self.seed + 1}
        return self._begin(weights, 0, questions, 1, temperature, options)(phases)

    def _begin(self, weights, weights_step, batch, group, temperature, options):
        grader = Grader(self.tokenizer, [q["answer"] for q in batch], group)
        running = self.thread.submit(
            self.sampler.share,
            [q["ids"] for q in batch],
            samples_per_prompt=group,
            max_new_tokens=self.rl.max_new_tokens,
            temperature=temperature,
            params=weights,
            on_sample=grader,
            **options,
        )

        def wait(phases: Phases) -> Groups:
            with phases("generate"):
                samples = gather(running.result())
            with phases("reward"):
                verdicts = grader.verdicts()
            return Groups(batch, samples, verdicts, np.full(len(batch), weights_step))

        return wait


def draw_ids(questions: Sequence[Question], num_examples: int) -> list[int]:
    """Each question's index; one that comes twice gets other draws the second time."""
    seen: Counter[int] = Counter()
    ids = []
    for question in questions:
        ids.append(question["index"] + num_examples * seen[question["index"]])
        seen[question["index"]] += 1
    return ids


class Lookahead:
    """Batches of which the next may be seen before its turn: the state is as if it had not been, so
    a run that goes on from there gets it again."""

    def __init__(self, batches: Batches):
        self.batches = batches
        self.seen: tuple[dict[str, Any], list[Question]] | None = None

    def __iter__(self) -> Lookahead:
        return self

    def __next__(self) -> list[Question]:
        batch = next(self.batches) if self.seen is None else self.seen[1]
        self.seen = None
        return batch

    def peek(self) -> list[Question]:
        if self.seen is None:
            self.seen = self.batches.get_state(), next(self.batches)
        return self.seen[1]

    def get_state(self) -> dict[str, Any]:
        return self.batches.get_state() if self.seen is None else self.seen[0]

    def set_state(self, state: dict[str, Any]) -> None:
        self.seen = None
        self.batches.set_state(state)


# ---- What was generated ahead, in a checkpoint --------------------------------------------------
class Ahead(NamedTuple):
    """The next step's samples and verdicts as arrays of `TrainState`, the same on all devices: the
    weights that generated them are gone. `weights_step` (see `Groups`) is -1 where there are none.
    """

    tokens: Any
    lengths: Any
    logprobs: Any
    stopped: Any
    verdicts: Any
    weights_step: Any


def abstract_ahead(config: ConfigDict, mesh: Mesh) -> Ahead:
    """Shapes, dtypes and shardings."""
    shape = (config.rl.questions, config.rl.group)
    longest = (*shape, config.rl.max_new_tokens)
    everywhere = NamedSharding(mesh, PartitionSpec())
    arrays = (
        (longest, jnp.int32),
        (shape, jnp.int32),
        (longest, jnp.float32),
        (shape, jnp.bool_),
        (shape, jnp.int8),
        ((), jnp.int32),
    )
    return Ahead(*(jax.ShapeDtypeStruct(*x, sharding=everywhere) for x in arrays))


def no_samples(config: ConfigDict, mesh: Mesh) -> Ahead:
    empty = Ahead(*(np.zeros(x.shape, x.dtype) for x in abstract_ahead(config, mesh)))
    return _put(empty._replace(weights_step=np.int32(-1)), mesh)


def to_ahead(groups: Groups, mesh: Mesh) -> Ahead:
    arrays = (*_arrays(groups.samples), groups.verdicts, np.int32(groups.weights_step[0]))
    return _put(Ahead(*arrays), mesh)


def from_ahead(ahead: Ahead, questions: list[Question]) -> Groups | None:
    """The groups of these questions, or None where nothing was generated ahead."""
    *arrays, verdicts, step = (np.asarray(x) for x in jax.device_get(ahead))
    if step < 0:
        return None
    return Groups(questions, Samples(*arrays), verdicts, np.full(len(questions), step))


def _put(ahead: Ahead, mesh: Mesh) -> Ahead:
    everywhere = NamedSharding(mesh, PartitionSpec())

    def put(x):
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, everywhere, lambda index: x[index])

    return Ahead(*map(put, ahead))


def _arrays(samples: Samples) -> tuple[np.ndarray, ...]:
    return samples.tokens, samples.lengths, samples.logprobs, samples.stopped
