"""A finished model to the hub, with its card."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from prefloop import __version__
from prefloop.addresses import without_passwords
from prefloop.configs.adapters import CONFIG, Adapter, adapter_of, read_object
from prefloop.configs.common import Compute
from prefloop.data.store import Node, Store, nearest_store
from prefloop.data.store import lineage as find_lineage
from prefloop.errors import InputError
from prefloop.evaluation.card import Card, Kind, ModelResults, is_hub_name, write_card
from prefloop.evaluation.json_files import decode
from prefloop.evaluation.reward_model_quality import RewardModelQuality
from prefloop.evaluation.summary import Summary, read_summary
from prefloop.models.encoder_decoder import WITH_SCORE, has_encoder
from prefloop.models.load import load_config
from prefloop.models.lora import ADAPTER, CARD
from prefloop.models.weights import check_files, weights_sha256
from prefloop.runtime.manifest import MANIFEST, faults, listed

_BLANKS = "[More Information Needed]"
"""Of a card that PEFT wrote for others to fill in."""

_WEIGHTS = (".safetensors", ".safetensors.index.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """A finished model, ready to be pushed."""

    folder: Path
    content: Mapping[str, Path | bytes]
    """Everything that is pushed, by its name in the repository."""
    card_is_there: bool
    """Whether the folder has a card of its own, which is pushed as it is."""

    @property
    def card(self) -> Path:
        """Where the card stands, or would."""
        return self.folder / CARD

    @property
    def adapter(self) -> Path | None:
        """The adapter that lies beside a whole model, if there is one."""
        folder = self.folder / ADAPTER
        return folder if (folder / CONFIG).is_file() else None

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(
            len(part) if isinstance(part, bytes) else part.stat().st_size for part in self.content.values()
        )

    def write_card(self) -> None:
        """Write the card into the folder, unless it has one."""
        card = self.content[CARD]
        if isinstance(card, bytes):
            self.card.write_bytes(card)


def pack(
    given: str,
    name: str,
    *,
    base: str = "",
    store: str = "",
    summary: str = "",
    settings_of: Callable[[str], Any] = lambda stage: None,
) -> Package:
    """A finished model as it is pushed, checked, with its card.

    Args:
        given: Folder of the model, of an adapter, or of the run that made it.
        name: Repository, OWNER/NAME.
        base: Hub name of an adapter's base, where the adapter names a folder.
        store: Store that knows the model; empty uses the nearest.
        summary: `summary.json` of an evaluation to quote; empty uses the project's, if it measured this model.
        settings_of: Stage -> the dataclass of its settings, or None. The card then names only those that are not the defaults.

    Raises:
        InputError: There is no model, it is not as it was written, or an adapter's base is a folder.
    """
    folder = _folder(given)
    adapter = adapter_of(str(folder))
    base = _base(folder, adapter, base)
    files = _files(folder, adapter)
    content: dict[str, Path | bytes] = {file: folder / file for file in files}
    if adapter is not None and base != adapter.base:
        content[CONFIG] = _with_base(adapter, base)
    card = folder / CARD
    if card.is_file() and _BLANKS not in card.read_text(encoding="utf-8"):
        return Package(folder=folder, content={**content, CARD: card}, card_is_there=True)
    tree, settings = _history(folder, store, settings_of)
    text = write_card(
        Card(
            name=name,
            kind=_kind(folder, adapter),
            encoder=_has_encoder(str(folder)),
            base=base,
            version=__version__,
            tree=tree,
            settings=settings,
            measured=_measured(folder, summary),
            files={"weights and config": weights_sha256(str(folder))},
        )
    )
    return Package(folder=folder, content={**content, CARD: text.encode()}, card_is_there=False)


def _folder(given: str) -> Path:
    """The model's folder; of a run its finished model's."""
    folder = Path(given)
    if (folder / "final").is_dir():
        folder = folder / "final"
    if not (folder / "config.json").is_file() and not (folder / CONFIG).is_file():
        raise InputError(
            f"{given!r} holds no model (config.json) and no adapter ({CONFIG}); name the folder of a finished model, RUN/final"
        )
    return folder


def _files(folder: Path, adapter: Adapter | None) -> list[str]:
    """What is pushed: the files of the folder itself. Raises `InputError` if one is not as it was written."""
    if (folder / MANIFEST).is_file():
        wrong = faults(folder, lambda name: name != CARD)
        inside = list(listed(folder))
    else:
        inside = [path.name for path in folder.iterdir() if path.is_file()]
        above = folder.parent / MANIFEST
        part = f"{folder.name}/"
        wrong = (
            faults(folder.parent, lambda name: name.startswith(part) and name != f"{part}{CARD}")
            if above.is_file() and any(name.startswith(part) for name in listed(folder.parent))
            else []
        )
    if wrong:
        raise InputError(f"{wrong[0]}; nothing is pushed: restore the file, or train again")
    check_files(folder)
    if adapter is None and not any(folder.glob("*.safetensors")):
        raise InputError(f"{str(folder)!r} holds no safetensors weights; nothing is pushed")
    return [
        name
        for name in inside
        if "/" not in name and not name.startswith(".") and name not in (CARD, MANIFEST)
    ]


def _with_base(adapter: Adapter, base: str) -> bytes:
    settings = {**adapter.settings, "base_model_name_or_path": base}
    return (json.dumps(settings, indent=2) + "\n").encode()


def _base(folder: Path, adapter: Adapter | None, given: str) -> str:
    """Hub name of an adapter's base; empty for a whole model."""
    if adapter is None:
        if given:
            raise InputError(
                f"base is {given!r}, but {folder} is a whole model, which needs none; leave it out"
            )
        return ""
    base = given or adapter.base
    if not is_hub_name(base):
        raise InputError(
            f"the adapter in {folder} belongs to {adapter.base!r}, a folder that nobody else has; "
            "push that first, and name it with --base OWNER/NAME"
        )
    return base


def _kind(folder: Path, adapter: Adapter | None) -> Kind:
    if adapter is not None:
        return "reward_model" if adapter.scores else "policy"
    name = (read_object(folder / "config.json").get("architectures") or [""])[0]
    return "reward_model" if "SequenceClassification" in name or name.endswith(WITH_SCORE) else "policy"


def _has_encoder(name: str) -> bool:
    config = load_config(name, Compute())
    return config is not None and has_encoder(config)


def _history(
    folder: Path, given: str, settings_of: Callable[[str], Any]
) -> tuple[Node | None, Mapping[str, Any]]:
    """The lineage, and what the run that made the model was set to beside defaults."""
    try:
        store = given or nearest_store(str(folder))
    except InputError:
        return None, {}
    with Store.open(store, create=False) as opened:
        for name in (str(folder), weights_sha256(str(folder))):
            try:
                tree = find_lineage(opened, name)
            except InputError:  # moved or copied, or made elsewhere
                continue
            runs = [child for child in tree.children if child.kind == "training_run"]
            if not runs:
                return tree, {}
            number, _, stage = runs[0].name.partition(": ")
            return tree, _changed(settings_of(stage), opened.training_run_config(int(number)))
    return None, {}


_HERE = ("run", "compute", "model")
"""Settings that say where a run computed and wrote; the model is said apart."""


def _changed(cls: Any, given: Mapping[str, Any], *, top: bool = True) -> dict[str, Any]:
    """Settings that are not the defaults of their class; all where it is not known."""
    defaults = _defaults(cls)
    found: dict[str, Any] = {}
    for key, value in given.items():
        if top and key in _HERE:
            continue
        usual = defaults.get(key, MISSING)
        if isinstance(value, Mapping) and (is_dataclass(usual) or usual is MISSING):
            inner = _changed(type(usual) if is_dataclass(usual) else None, value, top=False)
            found |= {key: inner} if inner else {}
        elif usual is MISSING or _plain(usual) != _plain(value):
            found[key] = value
    return found


def _defaults(cls: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(cls) if cls else ():
        if field.default is not MISSING:
            found[field.name] = field.default
        elif field.default_factory is not MISSING:
            found[field.name] = field.default_factory()
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _measured(folder: Path, given: str) -> ModelResults | None:
    """What an evaluation in the project folder, or the reward stage itself, says of this model."""
    whole = folder.parent if folder.name == ADAPTER else folder
    project = whole.parent.parent
    file = Path(given) if given else project / "summary.json"
    if given and not file.is_file():
        raise InputError(
            f"summary is {given!r}, which does not exist; name the summary.json of an evaluation"
        )
    summary = read_summary(file) if file.is_file() else None
    found = dict(_numbers(summary, file.parent, whole)) if summary else {}
    if summary and found:
        return ModelResults(
            numbers=found,
            units=summary.units,
            on=[*map(str, summary.data)] or list(summary.notes),
            alarms=summary.alarms,
        )
    if given:
        raise InputError(f"{file} measured no model in {whole}; leave summary out, or evaluate this one")
    heldout = whole.parent / "heldout.json"
    if heldout.is_file():
        quality = decode(RewardModelQuality, read_object(heldout), f"{heldout}: ")
        return ModelResults(
            numbers={
                "accuracy on held-out comparisons": quality.accuracy,
                "Brier score": quality.calibration.brier,
            },
            on=["Measured on the part of the training data that was held out, by prompt."],
        )
    return None


def _numbers(summary: Summary, project: Path, folder: Path) -> Iterator[tuple[str, Any]]:
    def is_this(checkpoint: str) -> bool:
        return folder.resolve() in ((project / checkpoint).resolve(), Path(checkpoint).resolve())

    for policy in summary.policies:
        if is_this(policy.checkpoint):
            for name in ("win_rate_vs_sft", "gold", "proxy", "kl", "length", "repetition"):
                if getattr(policy, name) is not None:
                    yield name, getattr(policy, name)
            yield from policy.further.items()
            return
    if summary.reward_model and is_this(summary.reward_model.checkpoint):
        yield "accuracy on held-out comparisons", summary.reward_model.accuracy
        if summary.reward_model.gold_accuracy:
            yield "accuracy against the gold judge", summary.reward_model.gold_accuracy


def upload(
    name: str,
    content: Mapping[str, Path | bytes],
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "",
) -> str:
    """Push everything as one commit, which removes weights that the repository has and this model has not. The commit's address.

    Raises `InputError` if the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="prefloop", library_version=__version__)
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        if revision:
            api.create_branch(name, branch=revision, exist_ok=True)
        there = api.list_repo_files(name, revision=revision)
        stale = [
            file for file in there if file.endswith(_WEIGHTS) and "/" not in file and file not in content
        ]
        changes = [CommitOperationDelete(path_in_repo=file) for file in stale]
        changes += [
            CommitOperationAdd(
                path_in_repo=file, path_or_fileobj=part if isinstance(part, bytes) else str(part)
            )
            for file, part in sorted(content.items())
        ]
        message = message or f"{name.partition('/')[2]}, by prefloop {__version__}"
        return str(api.create_commit(name, changes, commit_message=message, revision=revision).commit_url)
    except Exception as error:  # of the hub's client, or of the library under it that speaks HTTP
        raise InputError(f"{name} could not be pushed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The hub's refusal in a line with a way out. Libraries quote the header with the token where it cannot be sent; it is masked."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub does not accept the login ({status}); log in with `hf auth login`, or set HF_TOKEN to a token with write access"
    causes = [cause for cause in (error, error.__cause__) if cause is not None]
    reason = ": ".join(" ".join(str(cause).split()) or type(cause).__name__ for cause in causes)
    return str(without_passwords(reason[:400]))
