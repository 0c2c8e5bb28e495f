"""A byte-level BPE tokenizer and a causal language model from scratch, or further training of a model on plain text.

Documents are joined by the end token and cut into blocks, so every token but a block's first is predicted.

Logged: loss (nats per token), tokens, lr, grad_norm, skipped; and on held-out documents heldout_loss and heldout_perplexity.
"""

from pathlib import Path

from prefloop.configs.pretrain import PretrainConfig
from prefloop.loop.batches import Batches
from prefloop.loop.inputs import texts
from prefloop.loop.likelihood import likelihood_metrics, likelihood_step
from prefloop.loop.provenance import models_read
from prefloop.loop.reading import Reader, bring_models, store_of
from prefloop.loop.roles import parameters_of, shard_roles
from prefloop.loop.session import Session, open_run
from prefloop.loop.shown import show_completions
from prefloop.models.load import load_policy, new_language_model, save_policy
from prefloop.models.roles import Policy, vocabulary_size
from prefloop.models.trunk import check_length
from prefloop.runtime import start_world
from prefloop.text import check_vocabulary, load_tokenizer, pretraining_blocks, train_tokenizer


def train(config: PretrainConfig) -> Path:
    """Pretrain and return the folder of the finished model, its tokenizer beside it."""
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    train_texts, heldout_texts, read = world.on_main(lambda: texts(config.data))
    bring_models(world, config.model)
    tokenizer = world.on_main(
        lambda: (
            load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
            if config.model
            else train_tokenizer(
                (text.text for text in train_texts), vocab_size=config.architecture.vocab_size
            )
        )
    )
    blocks = pretraining_blocks(tokenizer, [text.text for text in train_texts], config.block_tokens)
    heldout = pretraining_blocks(tokenizer, [text.text for text in heldout_texts], config.block_tokens)
    models = models_read(world, model=config.model)
    batches = Batches(count=len(blocks), size=config.batch_blocks, seed=config.run.seed)
    with open_run(
        config,
        Reader(tokenizer=tokenizer, store=store_of(config.run.out, config.run.store), world=world),
        stage="pretrain",
        reads={"data": read},
        models=models,
        steps=batches.steps(epochs=config.epochs, max_steps=config.max_steps),
        headline=("loss", "heldout_perplexity", "grad_norm"),
    ) as session:
        run, tokens, every = session.run, session.tokens, config.eval_every
        run.say(
            f"{sum(block.tokens for block in blocks):,} tokens in {len(blocks)} blocks, vocabulary {len(tokenizer)}"
        )
        policy = _open(config, session)
        weights = sum(p.numel() for p in policy.parameters())
        shard_roles(session, policy)
        session.begin()
        updater = session.updater(parameters_of(policy, config.optim, name="policy"), updates=run.total_steps)
        run.say(f"{weights:,} weights")

        for step in session.steps(
            save=lambda folder: save_policy(policy, tokenizer, folder), updater=updater
        ):
            groups = world.share(batches.pick(blocks, step))
            metrics = likelihood_step(updater, policy, groups, tokens=tokens, world=world)
            if session.due(step, every):
                metrics |= likelihood_metrics(policy, heldout, tokens=tokens, world=world)
                show_completions(run, step, policy, tokenizer, heldout or blocks, beside="text")
            run.log(step, metrics)
        return session.finish()


def _open(config: PretrainConfig, session: Session) -> Policy:
    source, tokenizer = session.run.source(config.model), session.tokenizer
    if not source:
        return new_language_model(config.architecture, tokenizer, session.compute, seed=config.run.seed)
    policy = load_policy(source, session.learning)
    check_vocabulary(tokenizer, vocabulary_size(policy))
    check_length(policy.model, config.block_tokens, what="a block", way_out="lower block_tokens")
    return policy
