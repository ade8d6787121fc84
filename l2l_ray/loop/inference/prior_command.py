"""`l2l prior check`: the config's language model is asked about some labeled images, and what comes out is printed."""

from __future__ import annotations

from collections.abc import Sequence

from l2l_ray.config import RunConfig
from l2l_ray.errors import DataError
from l2l_ray.loop.inference.prior_check import check_priors
from l2l_ray.loop.inference.priors import LocalMllm, Mllm, question_of
from l2l_ray.loop.inference.reply_costs import ReplyCosts
from l2l_ray.loop.state.enough import candidates_of, training_labeled
from l2l_ray.prior.reply import MllmIdentity, Reply, make_prior
from l2l_ray.randomness import keyed_permutation, sample_key
from l2l_ray.types import LabeledExample
from l2l_ray.wording import Say, counted


def ask_and_check(config: RunConfig, num: int, say: Say, mllm: Mllm | None = None) -> bool:
    """Ask the config's MLLM about labeled images, one text each, and say what comes out; answers are not kept.

    Args:
        config: Of a run; its labeled images are asked about, without those that it would hold out as val.
        num: How many images, drawn by the run's seed.
        say: Takes each line.
        mllm: Who is asked; None = the config's model, in this process.
    Returns:
        Whether a run could use the answers.
    Raises:
        DataError: There is no labeled image, or none can be opened.
        ConfigError: The model cannot be loaded or answers nothing.
    """
    examples = _drawn(training_labeled(config, candidates_of(config)), num, config.loop.seed)
    mllm = mllm or LocalMllm(config.prior)
    identity = mllm.identity()
    say(f"{config.prior.model}, asked in the format {identity.prompt.name}: {identity.prompt.template}")
    say(f"{counted(len(examples), 'labeled image')} of {config.data.dataset}, one text each")
    costs = ReplyCosts(config.prior.batch_size, is_loaded=True)
    replies = _asked(examples, identity, mllm, config.prior.batch_size, costs)
    priors = [
        make_prior("", reply, identity, e.width_px, e.height_px) for e, reply in zip(examples, replies, strict=True)
    ]
    prior = config.prior
    check = check_priors(examples, priors, identity.prompt, prior.min_accuracy, prior.resizes_photos)
    for line in (*check.lines(), *costs.lines()):
        say(line)
    if problem := check.problem(config.prior.min_accuracy):
        say(f"a run would stop: {problem}")
    return not problem


def _drawn(labeled: Sequence[LabeledExample], num: int, seed: int) -> list[LabeledExample]:
    """Return one example of each of `num` images, both drawn."""
    if not labeled:
        raise DataError("there is no labeled image to ask about; expected one at least: see data.labeled_frac")
    key = sample_key(seed, "prior_check")
    shuffled = [labeled[i] for i in keyed_permutation(key, len(labeled))]
    return list({example.image_id: example for example in shuffled}.values())[:num]


def _asked(
    examples: Sequence[LabeledExample], identity: MllmIdentity, mllm: Mllm, batch_size: int, costs: ReplyCosts
) -> list[Reply]:
    """Return the replies in the order of the examples; the model is loaded before costs are counted."""
    questions = [question_of(example, identity.fingerprint) for example in examples]
    batches = (questions[i : i + batch_size] for i in range(0, len(questions), batch_size))
    list(mllm.ask(iter([questions[:1]])))  # loads the model; it is asked again, and counted then
    found: dict[str, Reply] = {}
    for batch, replies in costs.watched(mllm.ask, batches):
        found.update((question.key, reply) for question, reply in zip(batch, replies, strict=True))
    return [found[question.key] for question in questions]
