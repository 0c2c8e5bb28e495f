"""`prefloop push`."""

from typing import Any

from prefloop.cli.commands import commands, load
from prefloop.configs.push import PushConfig
from prefloop.evaluation.push import pack, upload


def push(config: PushConfig) -> None:
    """Check the model, write its card, and push both as one commit, or say what would be pushed."""
    package = pack(
        config.folder,
        config.name,
        base=config.base,
        store=config.store,
        summary=config.summary,
        settings_of=_settings_of,
    )
    if package.card_is_there:
        print(f"{package.card} exists already and is pushed unchanged; remove it to have it rewritten")
    content = package.content
    if config.dry_run:
        package.write_card()
        print(f"card: {package.card}")
        print(
            f"would push {len(content)} files, {package.size / 1e6:.1f} MB, to {config.name}: {', '.join(sorted(content))}"
        )
    else:
        address = upload(
            config.name,
            content,
            private=config.private,
            revision=config.revision or None,
            message=config.message,
        )
        print(f"pushed to {address}")
    if package.adapter:
        print(f"this is the whole model; the adapter by itself: prefloop push {package.adapter} OWNER/NAME")


def _settings_of(stage: str) -> Any:
    """The settings of a stage's command; None for what is no command."""
    command = commands().get(stage)
    return load(command.settings) if command else None
