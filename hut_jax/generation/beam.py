"""Beam search: the likeliest continuations found by keeping the best few of every length.

Which beams live on, which continuations count as finished and when the search ends is as in transformers' `generate`,
so that the same options give the same tokens:

- Of each step's candidates the best `(1 + ends) * beams` are looked at. Those that end are finished if they are among
  the best `beams`; the best `beams` of the others live on.
- A finished continuation's score is its log-probability over its length to the power of the length penalty, its end
  token counted. The `beams` best scores are kept. At the maximum length every candidate is finished.
- A row ends once it has `beams` finished ones and `early_stopping` is True; or once the best of the living, as if it
  were finished at its present length ("never": at the most favourable length), no longer beats the worst finished.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hut_jax.core.errors import UserError
from hut_jax.generation.constraints import Limits, ends_of
from hut_jax.generation.model_steps import Prompts, next_logits, on_each_device, plain, read_prompts
from hut_jax.generation.prompts import check_prompts, in_batches
from hut_jax.generation.top_k import grouped_top_k
from hut_jax.models.beam_cache import BeamCache

EarlyStopping = bool | Literal["never"]

_LARGEST_EXPONENT = 75.0  # a log-probability times or over e to this power is still a number of fp32


class Hypothesis(NamedTuple):
    """A continuation without its end token, and its score."""

    tokens: list[int]
    score: float


@dataclass(frozen=True)
class BeamSearch:
    """The options of beam search.

    Attributes:
        beams: how many continuations of a prompt are kept at each step.
        length_penalty: a finished continuation's log-probability is divided by its length to this power. Above 0
            longer ones gain by it; 0 leaves the log-probability.
        early_stopping: True ends a row at its first `beams` finished continuations; False, when the living look
            as if they could not win any more; "never", when they cannot.
    """

    beams: int
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False

    def check(self, config: Any, max_new_tokens: int) -> None:
        """Make sure that the options are in their ranges.

        Args:
            config: the model's.
            max_new_tokens: how long a continuation may be.

        Raises:
            UserError: one is not.
        """
        if self.beams < 1:
            raise UserError(f"beams must be at least 1, not {self.beams}")
        if self.beams > config.vocab_size:
            raise UserError(f"{self.beams} beams are more than the vocabulary has tokens, {config.vocab_size}")
        if not math.isfinite(self.length_penalty):
            raise UserError(f"length_penalty must be finite, not {self.length_penalty}")
        most = _LARGEST_EXPONENT / math.log(max(2, max_new_tokens))
        if abs(self.length_penalty) > most:
            raise UserError(
                f"length_penalty {self.length_penalty}: {max_new_tokens} tokens to that power leave fp32's range; "
                f"between {-most:.1f} and {most:.1f} they do not"
            )
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise UserError(f"early_stopping must be True, False or 'never', not {self.early_stopping!r}")

    def score(self, log_probability: Float[Array, "..."], length: Any) -> Float[Array, "..."]:
        """The score of a finished continuation."""
        return log_probability / jnp.asarray(length, jnp.float32) ** self.length_penalty


def beam_search(
    model: Any,
    params: Any,
    prompts: Sequence[Sequence[int]],
    *,
    beams: int,
    max_new_tokens: int,
    eos_id: int | Sequence[int] | None,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    min_new_tokens: int = 0,
    no_repeat_ngram: int = 0,
    ngrams_see_prompt: bool = False,
    returned: int = 1,
    apply: Callable | None = None,
    batch_size: int = 16,
    sharding: jax.sharding.NamedSharding | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[Hypothesis]]:
    """The best continuations of each prompt that beam search finds.

    Compiled once for a batch size, a padded length, the options, and an `apply`: pass the same function each time,
    not a new lambda.

    Args:
        model: a causal model with `init_cache`, such as `GPT2`.
        params: what `apply` takes first.
        prompts: token ids, of any lengths.
        beams: how many continuations of a prompt are kept at each step.
        max_new_tokens: how many tokens a continuation may have, its end token among them.
        eos_id: the token, or the tokens, that end a continuation. None: nothing does.
        length_penalty: see `BeamSearch`.
        early_stopping: see `BeamSearch`.
        min_new_tokens: before there are so many, no end token may come.
        no_repeat_ngram: no n-gram of this size may come twice in a continuation; 0: any may.
        ngrams_see_prompt: whether the prompt's n-grams count too, as in transformers' `generate`.
        returned: how many continuations of a prompt to return, the best first.
        apply: called as `apply(params, input_ids, attention_mask, position_ids=, cache=, logits_at=)`; an
            adapted model's goes here. Default: `model.apply({"params": params}, ...)`.
        batch_size: how many prompts are decoded at once.
        sharding: of a batch's first axis over devices, such as `NamedSharding(mesh, PartitionSpec("data"))`.
        progress: told after each batch how many prompts it did.

    Returns:
        For each prompt `returned` hypotheses, fewer where the search finished fewer.

    Raises:
        UserError: an empty prompt, a token id that is not in the vocabulary, an option out of its range, a beam
            wider than the vocabulary, or a prompt that with its continuation would be longer than n_positions.
    """
    limits = Limits(max_new_tokens, min_new_tokens, no_repeat_ngram, ngrams_see_prompt, ends_of(eos_id))
    search = BeamSearch(beams, length_penalty, early_stopping)
    limits.check(model.config)
    search.check(model.config, max_new_tokens)
    if not 1 <= returned <= beams:
        raise UserError(f"returned must be at least 1 and at most beams, {beams}, not {returned}")
    check_prompts(model.config, prompts, max_new_tokens)
    found = in_batches(
        functools.partial(_decode, model, apply, limits, search, sharding, params),
        prompts,
        batch_size=batch_size,
        longest=model.config.n_positions - max_new_tokens,
        sharding=sharding,
        progress=progress,
    )
    return [
        [
            Hypothesis(limits.until_end(tokens), float(score))
            for tokens, score in zip(row.tokens[:returned], row.scores[:returned], strict=True)
            if score > -math.inf
        ]
        for row in found
    ]


class _Finished(NamedTuple):
    tokens: Int[Array, "batch beams steps"]
    scores: Float[Array, "batch beams"]  # the best first; minus infinity where there is none yet


class _Living(NamedTuple):
    """The beams that go on. After the prompt there is one; from the first step on there are `beams`."""

    history: Int[Array, "batch beams history"]
    log_probabilities: Float[Array, "batch beams"]  # the best first; minus infinity for a beam that is none


class _State(NamedTuple):
    step: Int[Array, ""]
    living: _Living
    finished: _Finished
    open: Bool[Array, " batch"]  # whether a row is still searched
    cache: BeamCache


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _decode(model, apply, limits: Limits, search: BeamSearch, sharding, params, prompts: Prompts) -> _Finished:
    return on_each_device(sharding, functools.partial(_search, model, apply, limits, search), params, prompts)


def _search(model, apply, limits: Limits, search: BeamSearch, params, prompts: Prompts) -> _Finished:
    """What is finished when no row is open any more."""
    apply = apply or plain(model)
    most, beams = limits.max_new_tokens, search.beams

    def going_on(state: _State):
        return (state.step < most) & jnp.any(state.open)

    def advance(state: _State):
        tokens = limits.new(state.living.history)
        tokens = jax.lax.dynamic_index_in_dim(tokens, state.step - 1, axis=2, keepdims=False)
        logits, cache = next_logits(apply, params, prompts, tokens, state.cache)
        living, parents, finished, open_ = _choose(limits, search, logits, state)
        return _State(state.step + 1, living, finished, open_, cache.reorder(parents))

    logits, cache = read_prompts(model, apply, params, prompts, beams, most)
    batch = len(logits)
    living = _Living(limits.history(prompts.tokens, prompts.lengths)[:, None], jnp.zeros((batch, 1)))
    finished = _Finished(jnp.zeros((batch, beams, most), jnp.int32), jnp.full((batch, beams), -jnp.inf))
    state = _State(jnp.int32(0), living, finished, jnp.asarray(prompts.numbers >= 0), cache)
    living, _, finished, open_ = _choose(limits, search, logits[:, None], state)
    state = _State(jnp.int32(1), living, finished, open_, cache)
    return jax.lax.while_loop(going_on, advance, state).finished


def _choose(limits: Limits, search: BeamSearch, logits, state: _State):
    """One step of the search, from the logits of each beam's next token, `[batch, beams, vocab]`.

    Returns:
        The living, the beam that each comes from, the finished, and which rows are still open.
    """
    candidates, parents, tokens = _best_candidates(limits, search, logits, state)
    history = jnp.take_along_axis(state.living.history, parents[..., None], axis=1)
    history = limits.write(history, state.step, tokens)
    length = state.step + 1
    ends = limits.is_end(tokens) | (length == limits.max_new_tokens)

    # What ends now is finished, if it is good enough and its row is still searched.
    counts = ends & (jnp.arange(candidates.shape[1]) < search.beams) & state.open[:, None]
    scores = jnp.where(counts, search.score(candidates, length), -jnp.inf)
    scores = jnp.concatenate([state.finished.scores, scores], axis=1)
    scores, kept = jax.lax.top_k(scores, search.beams)
    sequences = jnp.concatenate([state.finished.tokens, limits.new(history)], axis=1)
    finished = _Finished(jnp.take_along_axis(sequences, kept[..., None], axis=1), scores)

    # The best of the others live on.
    best, kept = jax.lax.top_k(jnp.where(ends, -jnp.inf, candidates), search.beams)
    living = _Living(jnp.take_along_axis(history, kept[..., None], axis=1), best)

    full = finished.scores[:, -1] > -jnp.inf
    if search.early_stopping is True:
        open_ = state.open & ~full
    else:
        favourable = search.early_stopping == "never" and search.length_penalty > 0
        hoped = search.score(best[:, 0], limits.max_new_tokens if favourable else length)
        open_ = state.open & (hoped > finished.scores[:, -1])
    return living, jnp.take_along_axis(parents, kept, axis=1), finished, open_


def _best_candidates(limits: Limits, search: BeamSearch, logits, state: _State):
    """The best continuations by one token: their log-probabilities, the beams they come from, and the tokens.

    Each beam's own best are found first: there is no need to sort all beams' vocabularies together.
    """
    batch, beams, vocab = logits.shape
    wanted = (1 + max(1, len(limits.ends))) * search.beams
    normalizer = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    allowed = limits.forbid(logits, state.living.history, state.step)
    best, tokens = grouped_top_k(allowed, min(wanted, vocab))
    scores = (best - normalizer + state.living.log_probabilities[..., None]).reshape(batch, -1)
    # A small vocabulary may have fewer after the prompt than are wanted.
    scores = jnp.pad(scores, ((0, 0), (0, max(0, wanted - scores.shape[1]))), constant_values=-jnp.inf)
    candidates, places = jax.lax.top_k(scores, wanted)
    places = jnp.minimum(places, beams * tokens.shape[2] - 1)
    tokens = jnp.take_along_axis(tokens.reshape(batch, -1), places, axis=1)
    return candidates, places // best.shape[2], tokens.astype(jnp.int32)
