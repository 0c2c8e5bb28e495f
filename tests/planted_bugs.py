"""Single-line bugs of wiring, and the tests that must find each: `python -m tests.plant` plants them, one at a time.

A formula is guarded by its own tests. What is planted here is what lies between formulas: an argument that is not passed on, a state that is not
restored, a seed that stays the same. The old text must stand in the file exactly once, so that a bug cannot rot.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Plant:
    """One bug."""

    file: str
    """In `prefloop`."""
    old: str
    new: str
    tests: tuple[str, ...]
    """In `tests`: files, or single tests as pytest names them. The one that should find it comes first."""
    what: str
    """The mistake in words."""

    @property
    def key(self) -> str:
        """Names the bug among the others."""
        return f"{self.file}: {self.old.strip()} -> {self.new.strip()}"


def _of(*tests: str) -> "_Area":
    return _Area(tests)


class _Area:
    """Makes plants that the same tests look for."""

    def __init__(self, tests: tuple[str, ...]) -> None:
        self._tests = tests

    def __call__(self, file: str, old: str, new: str, what: str) -> Plant:
        return Plant(file=file, old=old, new=new, tests=self._tests, what=what)


_encoded = _of("models/test_encoder_decoder.py")
_orders = _of("algorithms/test_wiring.py::test_every_epoch_of_every_step_has_an_order_of_its_own")
_shaped = _of("algorithms/test_own_samples.py::test_the_choice_goes_by_shaped_scores")
_may_change = _of("algorithms/test_wiring.py::test_a_resumed_run_may_change_these_settings_and_no_others")
_resume = _of("runtime/test_run.py::test_save_every_and_keep")
_policies = _of("evaluation/test_coverage.py::test_numbers_of_policies_are_covered")
_alarms = _of("evaluation/test_coverage.py::test_the_alarm_of_reward_hacking_goes_by_prompts")
_reward_model = _of("evaluation/test_coverage.py::test_numbers_of_a_reward_model_are_covered")
_verdicts = _of("evaluation/test_coverage.py::test_verdicts_and_best_of_n_are_covered")
_rankings = _of("data/test_partial_rankings.py")
_store = _of(
    "data/test_store_judgements.py::test_filters",
    "data/test_store_judgements.py::test_only_a_preference_becomes_chosen_and_rejected",
    "data/test_store_judgements.py::test_a_second_opinion_must_supersede_the_first",
    "data/test_store_judgements.py::test_open_items_are_those_an_annotator_has_not_judged",
    "data/test_store_exports.py::test_an_export_stays_what_it_was",
    "data/test_store_exports.py::test_an_export_is_its_records_hash",
    "data/test_store_exports.py::test_prompts_are_exported_by_part",
    "data/test_store_texts.py::test_hard_texts_on_each_database",
    "data/test_store_texts.py::test_samples_that_differ_in_anything_are_kept",
)
_sampler = _of(
    "rollout/test_sampler.py::test_what_is_drawn_does_not_depend_on_company",
    "rollout/test_sampler.py::test_settings_reach_the_draw",
    "rollout/test_sampler.py::test_no_stop_tokens_means_every_completion_is_cut",
)
_update = _of(
    "runtime/test_order.py",
    "runtime/test_optim.py::test_decay_is_for_matrices",
    "runtime/test_update.py::test_trajectory_equals_plain_pytorch",
    "runtime/test_update.py::test_bfloat16_gradients_are_added_in_float32",
    "runtime/test_update.py::test_counts_survive_a_restart",
    "runtime/test_update.py::test_resumed_updater_goes_on_bit_for_bit",
)


def _golden(stage: str, *others: str) -> _Area:
    return _of(f"algorithms/test_golden.py::test_first_steps[{stage}]", *others)


def _resumed(stage: str) -> _Area:
    return _of(f"algorithms/test_resume.py::test_resumed_at_every_step_equals_uninterrupted[{stage}]")


def _setting(stage: str) -> _Area:
    return _of(f"algorithms/test_settings_change.py::test_every_setting_changes_something[{stage}]")


PLANTS: tuple[Plant, ...] = (
    # algorithms
    _orders("loop/learn.py", "PCG64([seed, step, epoch])", "PCG64([seed, step, min(epoch, 1)])", "Minibatches keep one order from the second epoch on"),
    _orders("loop/learn.py", "PCG64([seed, step, epoch])", "PCG64([seed, 1, epoch])", "Minibatches have the first step's order in every step"),
    _of("algorithms/test_wiring.py::test_the_kl_that_bounds_a_step_of_trpo_is_that_of_the_old_policy_to_the_new_one")(
        "algorithms/trpo.py", "statistics = old.statistics_against(policy, ", "statistics = policy.statistics_against(old, ",
        "TRPO's line search bounds the KL of the new policy to the old one"),
    _of("algorithms/test_wiring.py::test_the_controlled_coefficient_weighs_the_kl_in_the_loss")("algorithms/ppo.py", "kl_coef=kl_coef, estimator", "kl_coef=KLCoefficient(config.kl, completions=k), estimator",
         "PPO's loss uses the first KL coefficient, not the controlled one"),
    _golden("ppo")("loop/sources.py", "first_key=first_key + (batch - 1) * self.batches.size", "first_key=first_key",
         "PPO draws with the first step's random numbers in every step"),
    _golden("ppo")("loop/ptx.py", "self.batches.pick(self.groups, update)", "self.batches.pick(self.groups, 1)",
         "The pretraining mix shows the same sequences at every update"),
    _golden("ppo")("algorithms/ppo.py", "warm = step > config.critic.warmup_steps", "warm = step >= config.critic.warmup_steps",
         "The policy learns in the last step of the critic's warm-up"),
    _golden("ppo")("loop/adaptive.py", "mean, std = self._stored", "mean, std = 0.0, 1.0",
         "PPO's scores are not normalised by the moments stored with the reward model"),
    _resumed("ppo")("loop/adaptive.py", 'self.value = state["value"]', "self.value = self.value",
         "A resumed PPO run restarts the KL controller"),
    _resumed("dapo")("loop/dynamic_sampling.py", "self.done = state", "self.done = 0",
         "A resumed GRPO run starts again with the first prompts"),
    _setting("grpo-own")("algorithms/critic_free.py", "(config.clip_low, config.clip_high),", "(config.clip_low, config.clip_low),",
           "The ratio's upper bound is the lower one"),
    _of("algorithms/test_wiring.py::test_whitening_reaches_over_what_is_learned_from")(
        "loop/critic_free_experience.py", "baseline), learned)", "baseline), mask)",
        "Whitening's moments include completions that are not learned from"),
    _golden("remax")("algorithms/critic_free.py", "first_key=GREEDY_KEYS, sampling=greedy, version", "first_key=GREEDY_KEYS, version",
           "The greedy baseline is sampled"),
    _shaped(
        "algorithms/online_dpo.py", "_compare(rollout, shaped, ", "_compare(rollout, scores, ",
        "Online DPO chooses by raw scores instead of shaped ones"),
    _golden("xpo")(
        "algorithms/online_dpo.py", "source.draw(reference, step, k=1, first_key=REFERENCE_KEYS)",
        "source.draw(policy, step, k=1, first_key=REFERENCE_KEYS)", "XPO's second completion is the policy's own"),
    _shaped(
        "algorithms/expert.py", "shaped = shape(rollout, scores).view(", "shaped = scores.view(",
        "Expert iteration keeps completions by raw scores instead of shaped ones"),
    _golden("nash_md")(
        "algorithms/nash_md.py", "geometric_mixture(policy, reference, share=config.mixture)", "geometric_mixture(reference, policy, share=config.mixture)",
        "Nash-MD's opponent mixes the wrong way round"),
    _golden("nash_md")("algorithms/nash_md.py", "k=1, first_key=OPPONENT_KEYS)", "k=1)",
           "Nash-MD's opponent draws with the policy's random numbers"),
    _setting("ilql-own")("algorithms/ilql.py", "updater.steps % follow_every == 0", "updater.steps % 2 == 0",
         "ILQL's target heads follow every second update, whatever is set"),
    _golden("ilql")(
        "algorithms/ilql.py", "for part in (inputs.train, inputs.heldout)", "for part in (inputs.train, inputs.train)",
        "ILQL's held-out numbers are those of the training part"),
    _of("algorithms/test_wiring.py::test_a_value_head_survives_a_restart")("loop/objective_step.py", 'weight.copy_(state["value_head"])', "weight.copy_(self.value_head.weight)",
         "A resumed run forgets the value head"),
    _setting("prefer-follow")("algorithms/prefer.py", "if follow.every and step % follow.every == 0:", "if follow.every:",
         "The reference follows at every step, whatever is set"),
    _of("algorithms/test_wiring.py::test_how_sure_a_label_is_reaches_the_loss")("loop/objective_examples.py", "return (record.p_soft, 1 - record.p_soft)", "return (1.0, 0.0)",
         "Soft labels are trained as certain ones"),
    _of("algorithms/test_reward.py::test_stored_moments_are_those_of_heldout_scores")(
        "algorithms/reward.py", "measured = inputs.heldout.groups or inputs.train.groups", "measured = inputs.train.groups",
        "A reward model's moments are taken on the training part"),
    _of("algorithms/test_wiring.py::test_how_sure_a_label_is_reaches_the_loss")(
        "loop/reward_step.py", "p_soft=of.p_soft(),", "p_soft=torch.ones_like(chosen),",
        "A reward model is trained on soft labels as certain ones"),
    _of("algorithms/test_distill_context.py::test_value_and_gradient_by_brute_force")(
        "algorithms/distill_context.py", "reference_batch=behind,", "reference_batch=plain,", "The teacher does not read the context"),
    _resumed("grpo")(
        "loop/roles.py", 'if session.run.start and policy.adapter_name == BASE:', "if session.run.start < 0:",
        "After a restart the reference is the trained policy"),
    _of("algorithms/test_ppo_options.py::test_the_average_is_saved_and_equals_one_by_hand")(
        "loop/actor_critic.py", "MovingAverage(dict(of_policy.parameters), decay=config.ema)",
        "MovingAverage(dict(of_policy.parameters), decay=0.99)", "The moving average ignores its decay setting"),
    _of("algorithms/test_filter.py::test_models_read_no_more_than_the_budgets")("algorithms/filter.py", "budgets=cut)", "budgets=None)",
         "Filtering scores text that training would truncate"),
    _golden("ppo")("loop/adaptive.py", "self.value = self._next(kl, completions)", "self._next(kl, completions)", "The KL controller's coefficient is not kept"),
    _resumed("ppo")("loop/adaptive.py", "self.moments = RunningMoments(**state)", "self.moments = RunningMoments()", "After a restart the running moments start again"),
    _golden("ppo")("loop/adaptive.py", "self._running.add(scores)", "self._running", "Scores are scaled by moments that never see them"),
    # encoder-decoders
    _encoded("models/encoder_decoder.py", "first[of] * width + opening - 1,", "first[of] * width + opening,", "An encoder-decoder's first token is predicted one step late"),
    _encoded("models/encoder_decoder.py", "encoder_attention_mask=mask.index_select(0, batch.layout.prompt),", "encoder_attention_mask=None,", "The decoder attends to a prompt's padding"),
    _encoded("models/encoder_decoder.py", "generation.forced_bos_token_id = before[0] if before else None", "generation.forced_bos_token_id = None", "What a tokenizer writes before a target is not forced"),
    _encoded("models/roles.py", "model = copy.deepcopy(self.model).requires_grad_(False)", "model = copy.deepcopy(self.model, {id(self.model.get_encoder()): self.model.get_encoder()})", "The reference has the policy's encoder"),
    _encoded("rollout/encoded.py", "attention_mask=hidden[:, None, None],", "attention_mask=None,", "The sampler's decoder attends to a prompt's padding"),
    _encoded("rollout/encoded.py", "self._read.move(sources, targets, self._hidden.shape[1])", "self._read.move(sources, targets, 1)", "A completion that is moved keeps another prompt's states"),
    # rollout
    _of("algorithms/test_wiring.py::test_members_of_an_ensemble_are_normalised_each_by_its_own_moments")(
        "rollout/reward_scorers.py", "if len(self.parts) > 1 or self.normalise else", "if self.normalise else",
        "Ensembles online are not normalised member by member"),
    _setting("ppo-reward")(
        "rollout/reward_scorers.py", "elif self.context:\n            groups = _groups_in_context(self.tokenizer, asked, self.context)",
        "elif self.context:\n            groups = asked.groups(self.tokenizer)",
        "A scorer's context is not read"),
    _setting("grpo-reward")("rollout/reward_scorers.py", "rule = partial(rule, penalty=self.rules.variance_penalty)", "rule = partial(rule, penalty=0.5)",
         "The penalty on disagreement is the default one"),
    _sampler("rollout/sampler.py", "sample=start.owner[1], count=limit", "sample=0, count=limit",
             "All completions of a prompt use the same random numbers"),
    _sampler("rollout/sampler.py", "top_p=self._sampling.top_p,", "top_p=1.0,", "Top-p does not reach the sampling step"),
    _sampler("rollout/sampler.py", "kept[:, slots].roll(-last, 0).T.tolist()", "kept[:, slots].T.tolist()",
             "Tokens of completions that start later are rotated in the ring buffer"),
    _sampler("rollout/sampler.py", "ended=ended[row])", "ended=True)", "Truncated completions count as ended"),
    _of("loop/test_sources.py")("rollout/rollout.py", "lambda name: [getattr(self, name)[i] for i in places]", 'lambda name: getattr(self, name)[: len(places)] if name == "versions" else [getattr(self, name)[i] for i in places]',
        "Completions that are taken have the versions of the first ones"),
    _of("loop/test_sources.py")("loop/sources.py", "now = batch - 1 if version is None else version", "now = 0",
        "Every rollout claims to be drawn by the first weights"),
    _of("rollout/test_rollout.py")("rollout/rollout.py", "lambda name: [getattr(self, name)[i] for i in places]", 'lambda name: getattr(self, name)[: len(places)] if name == "sampler_logprobs" else [getattr(self, name)[i] for i in places]',
             "Picking prompts leaves their log-probabilities behind"),
    _of("rollout/test_playing.py")("rollout/playing.py", "[0.0] * len(added), own=False)", "[0.0] * len(added), own=True)",
        "An environment's tokens are learned from"),
    _of("rollout/test_playing.py")("rollout/episodes.py", "yield row, turn.end - 1, turn.reward", "yield row, turn.start, turn.reward",
        "A turn is paid at its first token"),
    _of("rollout/test_playing.py")("rollout/episodes.py", "for turn in episode.turns[:-1]:", "for turn in ():",
        "All of a conversation's reward stands at its end"),
    _of("rollout/test_playing.py")("rollout/playing.py", "((turn * k + talk.number) << KEY_BITS)", "(turn << KEY_BITS)",
        "Conversations of a prompt draw their later turns with the same random numbers"),
    _of("rollout/test_playing.py")("rollout/playing.py", "seed=(self.seed << KEY_BITS) + talk.key % (1 << KEY_BITS)", "seed=id(talk)",
        "An environment's seed is another one when a run is resumed"),
    _of("text/test_turns.py")("text/turns.py", "ids=[*so_far.ids, *drawn, *ids])", "ids=encode_prompt(tokenizer, Prompt(content=messages)))",
        "A conversation that goes on is tokenised again"),
    _of("text/test_turns.py")("text/turns.py", "if _squeezed(written) != _squeezed(kept):", "if not written:",
        "A template that rewrites earlier turns is not noticed"),
    _of("losses/test_advantages.py")("losses/advantages.py", "next_value = torch.where(mask[:, t], values[:, t], next_value)", "next_value = values[:, t]",
        "The value after a turn is that of an environment's token"),
    _of("losses/test_rewards.py")("losses/rewards.py", "is_last = mask & (from_here == 1)", "is_last = mask & ~torch.nn.functional.pad(mask[:, 1:], (0, 1))",
        "The score of a conversation stands at the end of every turn"),
    _of("rollout/test_rollout.py")(
        "rollout/rollout.py", 'texts, ended=ended, origin="drawn")', 'texts, origin="drawn")',
        "A scorer with other tokens reads truncated completions as ended"),
    _of("evaluation/test_evaluate.py::test_numbers_are_those_of_the_completions")("evaluation/evaluate.py", "nll=-summed_logprobs(reference, groups", "nll=-summed_logprobs(policy, groups",
         "The perplexity under the reference is the policy's own"),
    # evaluation
    _policies("evaluation/evaluate.py", "win_matrix({name: m.gold for name, m in measured.items()}, clusters=clusters)",
              "win_matrix({name: m.gold for name, m in measured.items()})", "The win matrix treats completions of a prompt as independent"),
    _policies("evaluation/evaluate.py", "rate_interval((m.gold > 0).astype(float), clusters=clusters)",
              "rate_interval((m.gold > 0).astype(float))", "The positive share treats completions of a prompt as independent"),
    _alarms("evaluation/evaluate.py", "proxy_gain=paired_difference(m.proxy, base.proxy, clusters=clusters)",
              "proxy_gain=paired_difference(m.proxy, base.proxy)", "The alarm's proxy gain treats completions of a prompt as independent"),
    _alarms("evaluation/evaluate.py", "gold_gain=paired_difference(m.gold, base.gold, clusters=clusters) if", "gold_gain=paired_difference(m.gold, base.gold) if",
              "The alarm's gold gain treats completions of a prompt as independent"),
    _policies("evaluation/evaluate.py", "kl=exactly(0.0, n) if is_first else mean_interval(m.kl, clusters=clusters)",
              "kl=exactly(0.0, n) if is_first else mean_interval(m.kl)", "The KL's interval treats completions of a prompt as independent"),
    _policies("evaluation/evaluate.py", "ratio_interval(m.nll, m.tokens, clusters=prompts,", "ratio_interval(m.nll, m.tokens,",
              "The perplexity's interval treats completions of a prompt as independent"),
    _of("evaluation/test_evaluate.py::test_numbers_are_those_of_the_completions")("evaluation/evaluate.py", "summed_kl(policy, reference, groups, temperature=temperature,", "summed_kl(policy, reference, groups, temperature=1.0,",
         "The evaluation's KL is at temperature 1, whatever the sampling temperature"),
    _verdicts("evaluation/win_rate.py", "rate_interval(scores, clusters=prompts)", "rate_interval(scores)",
              "A matrix of judgements treats those of a prompt as independent"),
    _policies("evaluation/win_rate.py", "low=1 - rate.high, high=1 - rate.low", "low=1 - rate.value, high=1 - rate.low",
              "With the sides swapped, the win rate's interval ends at the rate"),
    _reward_model("evaluation/reward_model_quality.py", "rate_interval(agree[kept], clusters=clusters_of(clusters, kept))", "rate_interval(agree[kept])",
              "The accuracy against gold treats comparisons of a prompt as independent"),
    _reward_model("evaluation/reward_model_quality.py", "mean_interval(expit(-difference) ** 2, clusters=clusters)",
              "mean_interval(expit(-difference) ** 2)", "The Brier score treats comparisons of a prompt as independent"),
    _reward_model("evaluation/reward_model_quality.py", "clusters=np.concatenate([_ids(clusters, len(right))] * 2)", "clusters=np.arange(2 * len(right))",
              "The correlation with length treats completions of a prompt as independent"),
    _reward_model("evaluation/reward_model_quality.py", "error_interval=_error_interval(confidence, right, which, bins, clusters)",
              "error_interval=_error_interval(confidence, right, which, bins, None)", "The calibration error treats comparisons of a prompt as independent"),
    _of("evaluation/test_coverage.py::test_numbers_of_texts_are_covered")("evaluation/text_statistics.py", "ended=rate_interval([float(end) for end in ended], clusters=prompts)",
              "ended=rate_interval([float(end) for end in ended])", "The share that ended treats completions of a prompt as independent"),
    _of("evaluation/test_coverage.py::test_with_five_prompts_the_means_are_covered_too")("evaluation/intervals.py", "half = student_t(confidence, count - 1) * error", "half = float(ndtri(0.5 + confidence / 2)) * error",
              "A normal quantile in place of Student's t"),
    _of("cli/test_evaluate.py::test_a_reward_model_trained_on_cut_texts_is_measured_on_cut_texts")("evaluation/measure.py", "budget=TokenBudget.of(config.data)", "budget=TokenBudget(prompt=config.data.max_prompt_tokens, completion=config.data.max_completion_tokens)",
         "The evaluation of a reward model forgets that texts are truncated"),
    _of("cli/test_evaluate.py::test_what_is_not_measured_is_counted_in_output_and_summary")("evaluation/parts.py", "left_out={**read.left_out, **({other: rest} if rest else {})}", "left_out={other: rest} if rest else {}",
         "What was dropped while reading is not counted"),
    # feedback
    _of("feedback/ratings/test_rank_sides.py", "feedback/ratings/test_uncertainty.py")(
        "feedback/ratings/uncertainty.py", "largest = np.abs((noise[:, others] - noise[:, [i]]) / errors[i, others]).max(1)",
        "largest = ((noise[:, others] - noise[:, [i]]) / errors[i, others]).max(1)", "Rank ranges are one-sided"),
    _of("feedback/test_simulate.py::test_flips_come_after_the_draw")("feedback/simulate.py", '"a" if prefers_a != flipped else "b"', '"a" if prefers_a else "b"',
         "Simulated annotators never flip a pair"),
    _of("feedback/test_simulate.py::test_rankings_without_noise_flipped_and_tied")("feedback/simulate.py", "ranking=ranking[::-1] if flipped else ranking", "ranking=ranking",
         "Simulated annotators never flip a ranking"),
    _of("feedback/select/test_acquisition.py::test_a_stated_share_is_uniform_and_the_rest_is_the_strategys")("feedback/select/choose.py", "rest = [at for at in best_first if at not in known]", "rest = [at for at in best_first]",
         "A pair drawn uniformly is asked again by the strategy"),
    _of("feedback/judges/test_judge.py::test_both_orders_are_averaged")("feedback/judges/judge.py", "probability = (forth + 1 - back) / 2", "probability = forth", "The judge's second order does not count"),
    _of("feedback/agreement/test_annotators.py::test_leave_one_out_by_hand")("feedback/agreement/people.py", "others[np.arange(len(rows)), own[rows]] -= 1", "others[np.arange(len(rows)), own[rows]] -= 0",
         "An annotator is compared with a majority that holds their own label"),
    _of("studio/test_adjudicate.py::test_a_decision_stands_in_place_of_the_answers_only_where_asked_for")(
        "feedback/judged.py", "if not row.superseded and not row.set_aside", "if not row.superseded", "Adjudications count as one more vote in ratings and agreement"),
    _of("feedback/agreement/test_coverage.py::test_coefficients_are_covered")("feedback/agreement_report.py", "raw=raw_agreement(labels, prompts=prompts)", "raw=raw_agreement(labels)",
         "Agreement treats the items of a prompt as independent"),
    _of("feedback/agreement/test_coverage.py::test_coefficients_are_covered")("studio/quality.py", "raw_agreement(labels, prompts=table.prompts)", "raw_agreement(labels)",
         "The studio's page treats the items of a prompt as independent"),
    _of("feedback/agreement/test_coverage.py::test_rates_against_a_baseline_are_covered")("feedback/against_baseline.py", "rows[judgement.models[own]][judgement.prompt_id].append(", "rows[judgement.models[own]][judgement.item].append(",
         "A baseline's win rate treats votes on one prompt as independent prompts"),
    _of("evaluation/test_coverage.py::test_nothing_has_an_interval_of_no_width_where_all_outcomes_agree")("evaluation/intervals.py", "        return without_interval(value, n, no_spread=True)\n    half", "        pass\n    half",
         "A mean of equal values has an interval of zero width"),
    _of("feedback/test_shares.py")("feedback/shares.py", "effective = n / ((seen * effect + most) / (seen + 1))", "effective = n / effect", "Prompts that nearly all agree show no design effect"),
    _of("evaluation/test_coverage.py::test_accuracy_of_a_judge_of_reviews_is_covered")("feedback/gold.py", "low, high = share_interval(answers, members)", "low, high = share_interval(answers)",
         "The accuracy of a judge of reviews treats reviews of one film as independent"),
    # rankings with ties, the best of K, what users' functions give, what judges are sent
    _rankings("data/store/as_records.py", "ranks=_ranks(row),", "ranks=(),", "Ties of a stored ranking are exported as an order"),
    _rankings("data/store/as_records.py", "top=int(row.choice == \"best\" and len(row.completions) > 2),", "top=0,", "The rest of a best of K is exported as an order"),
    _rankings("data/importing.py", "choice = \"best\" if judgement.top else \"ranking\"", "choice = \"ranking\"", "An imported best of K becomes a ranking"),
    _rankings("feedback/judged.py", "for slot in (slot for slot in range(len(judgement.models)) if slot != best):", "for slot in (slot for slot in range(len(judgement.models)) if slot > best):",
              "A best of K rates the best against some of the others only"),
    _of("data/test_partial_rankings.py", "losses/test_partial_rankings.py", "algorithms/test_reward_losses.py::test_what_a_ranking_leaves_open_is_in_no_order")("loop/reward_step.py",
        "                pairs[at, record.top :] = False\n", "                pass\n", "The reward model learns an order of a best of K's rest"),
    _of("losses/test_partial_rankings.py", "algorithms/test_reward_losses.py::test_what_a_ranking_leaves_open_is_in_no_order")("loop/reward_step.py",
        "&= ranks[:, None] < ranks[None, :]", "&= ranks[:, None] <= ranks[None, :]", "The reward model learns an order of tied completions"),
    _of("losses/test_objectives.py::test_a_loss_of_the_wrong_shape_is_refused_by_name")("losses/objectives.py", "if result.shape != (count,):", "if result.shape[:1] != (count,):",
        "A user's loss of shape [B, B] is accepted"),
    _of("losses/test_objectives.py::test_a_loss_of_the_wrong_shape_is_refused_by_name")("losses/objectives.py", "            and not result.requires_grad\n", "            and False\n",
        "A user's loss without a gradient trains nothing"),
    _of("losses/test_objectives.py::test_a_loss_of_the_wrong_shape_is_refused_by_name")("losses/objectives.py", "loss=checked_loss(function, name=name, data=data)", "loss=function", "A user's loss is not checked"),
    _of("rollout/test_scorers.py::test_anything_else_is_refused_by_name")("configs/functions.py", "if shape is not None and len(shape) != 1:", "if shape is not None and len(shape) < 1:",
        "A reward function may return [B, 1]"),
    _of("rollout/test_scorers.py::test_anything_else_is_refused_by_name")("configs/functions.py", "    if len(values) != count:\n", "    if len(values) < count:\n", "A reward function may return too many numbers"),
    _of("algorithms/test_games.py::test_a_preference_function_that_is_none_is_refused")("loop/payoff.py", "if not 0 <= value <= 1:", "if not value <= 1:", "A preference below 0 is accepted"),
    _of("feedback/judges/test_endpoint.py::test_fields_of_the_request")("feedback/judges/endpoint.py", "form.limit_field: form.max_tokens or max_tokens,", "form.limit_field: max_tokens,",
        "request.max_tokens is not sent to judges"),
    _of("feedback/judges/test_endpoint.py::test_fields_of_the_request")("feedback/judges/endpoint.py", "form.limit_field: form.max_tokens or max_tokens,", "\"max_tokens\": form.max_tokens or max_tokens,",
        "request.limit_field is not used"),
    _of("feedback/judges/test_endpoint.py::test_an_answer_without_text_is_billed")("feedback/judges/endpoint.py", "self._count(error.prompt_tokens, error.completion_tokens)", "pass",
        "An answer without text costs nothing"),
    _of("feedback/judges/test_endpoint.py::test_the_cache_and_the_annotator_know_the_fields")("feedback/judges/endpoint.py", "more = {\"limit\": form.max_tokens, \"fields\": dict(form.fields)}", "more = {}",
        "Cached answers of a different request are used"),
    # the studio
    _of("studio/test_prefix.py::test_every_address_in_pages_is_within_the_path")("studio/app.py", "return RedirectResponse(f\"{root_of(request)}/login?next=", "return RedirectResponse(f\"/login?next=",
        "The redirect to the sign-in page leaves the studio's path"),
    _of("studio/test_prefix.py::test_every_form_leads_back_within_the_path")("studio/pages.py", "    answer = RedirectResponse(f\"{root_of(request)}{to}\", 303)", "    answer = RedirectResponse(to, 303)",
        "Signing in leads out of the studio's path"),
    _of("studio/test_prefix.py::test_every_form_leads_back_within_the_path")("studio/pages.py", "    answer = RedirectResponse(f\"{root_of(request)}/login{out}\", 303)", "    answer = RedirectResponse(f\"/login{out}\", 303)",
        "Signing out leads out of the studio's path"),
    _of("studio/test_prefix.py::test_every_form_leads_back_within_the_path")("studio/pages_admin.py", "    return RedirectResponse(f\"{root_of(request)}/admin/projects/{project.id}\", 303)", "    return RedirectResponse(f\"/admin/projects/{project.id}\", 303)",
        "A new project leads out of the studio's path"),
    _of("studio/test_render.py")("studio/formulas.py", "state.pending += \"\\\\\" + following", "state.pending += following", "Markdown loses backslashes"),
    _of("studio/test_import_settings.py")("data/store/database.py", "            Path(self.label).unlink()\n", "            pass\n", "A failed import leaves an empty store"),
    _of("studio/test_passwords.py::test_a_password_is_changed_by_who_knows_it_and_other_browsers_are_signed_out", "studio/test_passwords.py::test_an_admins_link_sets_a_new_password_once")(
        "studio/passwords.py", "    row.password_hash = password_hash\n    end_sessions(session, row.id)\n", "    row.password_hash = password_hash\n", "A new password leaves old sessions signed in"),
    _of("studio/test_passwords.py::test_an_admins_link_sets_a_new_password_once")("studio/passwords.py", "        end_sessions(session, row.id)\n        audit", "        audit",
        "A link for a new password leaves old sessions signed in"),
    # data/store
    _store("data/store/as_records.py", "        margin=row.margin,\n        annotator=row.annotator,", "        annotator=row.annotator,",
           "Exported comparisons lose their margin"),
    _store("data/store/selecting.py", "found.append(table.annotator_id.in_(of_kinds))", "pass",
           "The filter by kind of annotator does nothing"),
    _store("data/store/selecting.py", "found.append(table.created_at >= filters.since)", "pass",
           "The filter by date does nothing"),
    _store("data/store/selecting.py", "superseded=later_id is not None", "superseded=False", "A judgement that was taken back is exported"),
    _store("data/store/exporting.py", "select(member.judgement_id).where(member.export_id == id)", "select(member.judgement_id)",
           "An export read again holds the judgements of all exports"),
    _store("data/store/selecting.py", ".order_by(slot.item_id, slot.slot)", ".order_by(slot.item_id, slot.slot.desc())",
           "The two completions of an item change places"),
    _store("data/store/selecting.py", "            index=row.sample_index,\n", "            index=0,\n", "Completions read back lose their number"),
    _store("data/store/judging.py", "if row[\"supersedes_id\"] == current.get(whose):", "if row[\"supersedes_id\"] is None or row[\"supersedes_id\"] == current.get(whose):",
           "An annotator can judge one item twice"),
    _store("data/store/judging.py", "models.JudgementRow.item_id == table.id, models.JudgementRow.annotator_id == annotator", "models.JudgementRow.item_id == table.id",
           "What one annotator has judged is closed to the others"),
    _of("data/test_lineage.py::test_the_whole_chain")("data/store/store.py", "roles={**({} if start is None else {runs.START: start}), **(models_read or {})},", "roles=models_read or {},",
         "A run's record forgets which model it started from"),
    # runtime
    _may_change("runtime/run.py", '"eval_every", "sampling.batch_size"),', '"eval_every", "sampling."),',
            "A run may be resumed with another temperature"),
    _may_change("runtime/run.py", '*("total_steps", "epochs",', '*("total_steps", "optim.", "epochs",', "A run may be resumed with another learning rate"),
    _resume("runtime/run.py", "step % every == 0):", "step % every == 1):", "Checkpoints are written at the wrong steps"),
    _update("runtime/order.py", "Philox(key=[seed, epoch])", "Philox(key=[seed, min(epoch, 1)])",
            "The order of examples is the same from the second epoch on"),
    _update("runtime/update.py", "master.grad += coarse.grad", "master.grad = (master.grad.to(coarse.dtype) + coarse.grad).float()",
            "Gradients in bfloat16 are summed in bfloat16"),
    _update("runtime/update.py", 'self._skipped_in_a_row = state["skipped_in_a_row"]', "self._skipped_in_a_row = 0",
            "After a restart non-finite steps are counted from 0 again"),
    _update("runtime/update.py", 'self.steps = state["steps"]', "self.steps = 0", "After a restart the learning rate's schedule starts again"),
    _update("runtime/optim.py", '"weight_decay": optim.weight_decay if decays else 0.0', '"weight_decay": optim.weight_decay',
            "Weight decay reaches norms and biases"),
    _update("runtime/optim.py", '"betas": (optim.beta1, optim.beta2)', '"betas": (optim.beta1, 0.95)', "The second moment's decay is the default one"),
)  # fmt: skip
