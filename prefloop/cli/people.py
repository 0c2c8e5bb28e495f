"""`prefloop label user` and `prefloop label project`."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

from prefloop.configs.label import (
    ImageEraseConfig,
    InviteConfig,
    ProjectDeleteConfig,
    ProjectMembersConfig,
    ProjectStateConfig,
    RecruitConfig,
    UserEraseConfig,
    UserResetConfig,
    UserRetainConfig,
)
from prefloop.data.store import Store
from prefloop.errors import InputError


def reset_password(config: UserResetConfig) -> None:
    """Print a link that sets a new password for somebody, once."""
    from prefloop.studio import passwords, two_factor
    from prefloop.studio.prefix import parsed
    from prefloop.studio.service import Studio

    parsed(config.public_url)
    with Store.open(config.store, create=False) as store:
        studio = Studio(store)
        account = passwords.find_account(studio, config.login)
        if config.second_factor_off:
            two_factor.turn_off(studio, account, by=None)
        secret = passwords.new_reset(studio, account, by=None)
    print(f"{config.login} is signed out everywhere. This link sets a new password, once, within a day:\n")
    print(f"    {config.public_url.rstrip('/')}/reset/{secret}\n")
    print("The studio must be running there (`prefloop label serve`); --public_url names another address.")


def erase(config: UserEraseConfig) -> None:
    """Erase a person, and print or write the proof."""
    from prefloop.studio import erasure
    from prefloop.studio.service import Studio

    with Store.open(config.store, create=False) as store:
        studio = Studio(store)
        person = erasure.find_person(studio, config.login)
        asks = not config.yes
        if asks:
            print(
                f"This deletes the account of {config.login} and every word they wrote, for good.", flush=True
            )
        given = _confirmed(config.login, what="login", done="erased", asks=asks)
        if given != config.login:
            raise InputError(f"nothing was erased: {given!r} is not {config.login!r}")
        proof = erasure.erase(studio, person, by=None)
    text = json.dumps(asdict(proof), indent=1, ensure_ascii=False)
    if not config.out:
        print(text)
        return
    try:
        Path(config.out).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        # The proof is in the store too.
        raise InputError(
            f"{config.login} is erased, but {config.out} cannot be written ({error.strerror}); the proof is under Admin, People"
        ) from error
    print(f"{config.login} is erased; the proof is in {config.out}")


def retain(config: UserRetainConfig) -> None:
    """List who has done nothing for so long, and delete their accounts if that is confirmed."""
    from prefloop.studio import retention
    from prefloop.studio.service import Studio

    with Store.open(config.store, create=False) as store:
        studio = Studio(store)
        found = (
            retention.retain(studio, config.days, words=config.words)
            if config.yes
            else retention.idle(studio, config.days)
        )
    for each in found:
        print(f"  {each.pseudonym}  {each.role}  last active {each.last:%Y-%m-%d}")
    days = f"{config.days} {'day' if config.days == 1 else 'days'}"
    if not found:
        print(f"nobody but admins and managers has been without activity for more than {days}")
        return
    done = (
        "are deleted" if config.yes else "would be deleted; nothing was done, add --yes true to delete them"
    )
    print(f"{len(found)} accounts without activity for more than {days} {done}")


def erase_image(config: ImageEraseConfig) -> None:
    """Erase an image, and say how many texts showed it."""
    from prefloop.studio import image_erasure
    from prefloop.studio.service import Studio

    with Store.open(config.store, create=False) as store:
        studio = Studio(store)
        sha256, shown = image_erasure.find_image(studio, config.image)
        if not config.yes:
            print(f"This erases image {sha256}, which {shown} texts show, for good.", flush=True)
            given = _confirmed(config.image, what="hash", done="erased", asks=True)
            if given != config.image:
                raise InputError(f"nothing was erased: {given!r} is not {config.image!r}")
        rewritten = image_erasure.erase_image(studio, sha256, by=None)
    print(
        f"image {sha256[:12]} is erased; {shown} texts keep its place and description, and records with it cannot be exported"
    )
    if not rewritten:
        print(
            "  its bytes may still be in the database's files until they are compacted (VACUUM); backups keep it"
        )


def invite(config: InviteConfig) -> None:
    """Print a link that lets people in."""
    from prefloop.studio import invitations
    from prefloop.studio.prefix import parsed
    from prefloop.studio.service import Studio

    parsed(config.public_url)
    with Store.open(config.store, create=False) as store:
        studio = Studio(store)
        secret = invitations.invite(
            studio,
            config.role,
            to=[studio.find_project(name).id for name in config.projects],
            uses=config.uses,
            days=config.days,
            note=config.note,
        )
    people = {1: "one person"}.get(config.uses, f"{config.uses} people")
    print(f"This link lets {people} in as {config.role}, within {config.days} days; it is shown only once:\n")
    print(f"    {config.public_url.rstrip('/')}/join/{secret}\n")


def set_project_state(config: ProjectStateConfig) -> None:
    """Archive a project, or open it again."""
    from prefloop.studio.service import Studio

    with Store.open(config.store, create=False) as store:
        studio = Studio(store)
        project = studio.find_project(config.project)
        studio.change_project(project.id, project.settings, state=config.state)
    print(f"project {project.settings.name!r} was {project.state} and is {config.state}")


def set_members(config: ProjectMembersConfig) -> None:
    """Change who belongs to a project, whole or not at all, and print who does."""
    from prefloop.studio import members
    from prefloop.studio.service import Studio

    with Store.open(config.store, create=False) as store:
        studio = Studio(store)
        project = studio.find_project(config.project)
        members.change(studio, project.id, add=config.add, role=config.role, remove=config.remove, by=None)
        settings = replace(project.settings, access=config.access or project.settings.access)
        studio.change_project(project.id, settings)
        found = members.members(studio, project.id)
    print(f"project {settings.name!r} is open to {_OPEN_TO[settings.access]}; {len(found)} members")
    for member in found:
        print(f"  {member.login}  {member.role}  {member.answers} answers")


_OPEN_TO = {
    "everyone": "everybody with an account",
    "members": "members only",
    "public": "everybody, visitors without an account too",
}


def recruit(config: RecruitConfig) -> None:
    """Make a link for a recruiting platform, and print a project's links and how many came by each."""
    from prefloop.studio import studies
    from prefloop.studio.prefix import parsed
    from prefloop.studio.service import Studio

    parsed(config.public_url)
    with Store.open(config.store, create=False) as store:
        studio = Studio(store)
        project = studio.find_project(config.project)
        if config.platform is not None:
            if config.answers:
                studio.change_project(project.id, replace(project.settings, quota=config.answers))
            studies.create(
                studio, project.id, config.platform, places=config.places, code=config.code, by=None
            )
        for number, open in [
            *((each, False) for each in config.close),
            *((each, True) for each in config.reopen),
        ]:
            studies.change(studio, project.id, number, open=open, by=None)
        found = studies.studies(studio, project.id)
        came = studies.participants_csv(studio, project.id)
    for study in found:
        print(
            f"{study.id}  {studies.PLATFORMS[study.platform].title}{'' if study.open else ', closed'}: {study.started} of {study.places} people came, "
            f"{study.completed} gave their {study.answers} answers\n    {config.public_url.rstrip('/')}{study.path}"
        )
    if not found:
        print(f"project {project.settings.name!r} has no study; name a --platform to make one")
    if config.out:
        try:
            Path(config.out).write_text(came, encoding="utf-8", newline="")
        except OSError as error:
            raise InputError(
                f"out is {config.out}, which cannot be written ({error.strerror}); name another file"
            ) from error
        print(f"wrote {sum(study.started for study in found)} participants to {config.out}")


def delete_project(config: ProjectDeleteConfig) -> None:
    """Say what goes with a project, ask, and delete it."""
    from prefloop.studio import removal
    from prefloop.studio.service import Studio

    with Store.open(config.store, create=False) as store:
        studio = Studio(store)
        project = studio.find_project(config.project)
        name = project.settings.name
        print(f"This deletes {removal.removal(studio, project.id)}.", flush=True)
        confirmed = _confirmed(name, what="project's name", done="deleted", asks=not config.yes)
        removal.delete_project(studio, project.id, confirm=confirmed)
    print("deleted")


def _confirmed(name: str, *, what: str, done: str, asks: bool) -> str:
    """The name that is typed to confirm; the right one where nobody is asked. Raises `InputError` without a terminal to ask at."""
    if not asks:
        return name
    if not sys.stdin.isatty():
        raise InputError(f"nothing was {done}: add --yes true to go on with {name!r} without being asked")
    return input(f"Type the {what} to go on: ").strip()
