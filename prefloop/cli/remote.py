"""`prefloop label remote`: a studio on another machine, over its API."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop.cli.printing import show
from prefloop.configs.remote import (
    RemoteCallConfig,
    RemoteExportConfig,
    RemoteImportConfig,
    RemoteInviteConfig,
    RemoteProjectsConfig,
)
from prefloop.errors import InputError

if TYPE_CHECKING:
    from prefloop.studio.client import RemoteProject, RemoteStudio


def connect(url: str) -> "RemoteStudio":
    """The studio at an address, or at that of the environment."""
    from prefloop.studio.client import RemoteStudio

    address = url or os.environ.get("PREFLOOP_URL", "")
    if not address:
        raise InputError(
            "url is empty; name the studio's address, or set the environment variable PREFLOOP_URL"
        )
    return RemoteStudio(address)


def list_projects(config: RemoteProjectsConfig) -> None:
    """Print the projects and how far they are."""
    with connect(config.url) as studio:
        found = studio.projects()
        url = studio.url
    told = [
        {"id": one.id, "state": one.state, "settings": one.settings, "progress": one.progress}
        for one in found
    ]
    show(
        told,
        lambda: "\n".join(map(_line, found)) or f"{url}: no project that you belong to",
        as_json=config.json,
    )


def _line(project: "RemoteProject") -> str:
    done = ", ".join(f"{name} {count}" for name, count in project.progress.items())
    return f"{project.id}  {project.name}  {project.settings['kind']}, {project.state}: {done}"


def import_items(config: RemoteImportConfig) -> None:
    """Send a file to a project, which is made if it is not there."""
    asked: dict[str, Any] = {
        name: given for name, given in (("kind", config.kind), ("overlap", config.overlap)) if given
    }
    with connect(config.url) as studio:
        project = next((one for one in studio.projects() if one.name == config.project), None)
        if project is None:
            project = studio.create_project(config.project, **asked)
        _check_same(project, asked)
        made = project.add(
            config.source, known=config.known, columns=list(config.columns), format=config.format
        )
    counts = ", ".join(f"{name} {count}" for name, count in made.items() if name != "project")
    print(f"{config.source}: in project {project.name!r}: {counts}")


def _check_same(project: "RemoteProject", asked: dict[str, Any]) -> None:
    """Raise `InputError` for a project that is there with other settings than those given."""
    for name, value in asked.items():
        if project.settings[name] != value:
            raise InputError(
                f"{name} is {value}, but project {project.name!r} has {project.settings[name]}; leave {name} out"
            )


def export(config: RemoteExportConfig) -> None:
    """Fetch what was judged."""
    with connect(config.url) as studio:
        project = studio.project(_named_or_numbered(config.project))
        if config.kind in ("answers", "spans", "steps"):
            rows = project.answers(config.kind)
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            files = {Path(config.out): lines.encode()}
        else:
            exported = project.export(config.kind, adjudicated=config.adjudicated)
            files = _named(config.out, exported.files)
            for path, manifest in zip(list(files), exported.manifests, strict=True):
                told = {**manifest, "file": path.name}
                beside = path.with_name(f"{path.name}.manifest.json")
                files[beside] = json.dumps(told, indent=1, ensure_ascii=False).encode() + b"\n"
    for path, content in files.items():
        try:
            path.write_bytes(content)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be written ({error.strerror}); choose another folder"
            ) from error
        if path.suffix == ".jsonl":
            print(f"{path}: {len(content.splitlines())} rows of {config.kind}")


def _named_or_numbered(project: str) -> str | int:
    return int(project) if project.isdecimal() else project


def _named(out: str, files: Mapping[str, bytes]) -> dict[Path, bytes]:
    """Where files go: one at `out`; of two, chats and plain texts beside it, as `label export` names them."""
    target = Path(out)
    if len(files) == 1:
        (content,) = files.values()
        return {target: content}
    return {
        target.with_name(f"{target.stem}-{Path(name).stem.rpartition('-')[2]}.jsonl"): content
        for name, content in files.items()
    }


def invite(config: RemoteInviteConfig) -> None:
    """Print a link that lets people in."""
    with connect(config.url) as studio:
        link = studio.invite(
            *map(_named_or_numbered, config.projects),
            role=config.role,
            uses=config.uses,
            days=config.days,
            note=config.note,
        )
    print(link)


def call(config: RemoteCallConfig) -> None:
    """Send a request and print the answer."""
    query: dict[str, Any] = {}
    for word in config.query:
        name, _, value = word.partition("=")
        query.setdefault(name, []).append(value)
    with connect(config.url) as studio:
        told = studio.call(config.method, config.path, _body(config.body), **query)
    if told is not None:
        print(told if isinstance(told, str) else json.dumps(told, indent=1, ensure_ascii=False))


def _body(given: str) -> Any:
    """JSON as it was typed or as it is in a file; None for nothing."""
    text, named = given, "body"
    if given.startswith("@"):
        named = given[1:]
        try:
            text = Path(named).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"body: {named} cannot be read ({error})") from error
    try:
        return json.loads(text) if text else None
    except ValueError as error:
        raise InputError(f"{named} is not JSON ({error}); write for example '{{\"overlap\": 2}}'") from error
