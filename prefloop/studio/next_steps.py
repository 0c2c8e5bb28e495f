"""The one next step of a project, for whoever runs it."""

from dataclasses import dataclass

from prefloop.studio.values import Project, ProjectProgress


@dataclass(frozen=True, kw_only=True, slots=True)
class NextStep:
    """What to do now."""

    why: str
    words: str
    """On the button."""
    path: str
    """Where it leads, under the studio's root."""


def next_step(
    project: Project, progress: ProjectProgress, *, people: int, held: int, is_admin: bool
) -> NextStep:
    """What a project needs now. `people`: who answered in it; `held`: who may not continue until somebody decides."""
    here = f"/admin/projects/{project.id}"
    if held:
        return NextStep(
            why="Somebody cannot continue until you decide.", words="See who waits", path=f"{here}/people"
        )
    if project.state != "open":
        return NextStep(why=f"This project is {project.state}.", words="Open it", path=f"{here}/edit")
    if project.settings.kind != "chat" and not progress.items:
        return NextStep(why="There is nothing to judge yet.", words="Add items", path=f"{here}#add")
    if not people:
        return NextStep(
            why="Nobody has answered yet. Invite people, or label yourself.",
            words="Invite people",
            path=f"{here}/members",
        )
    if project.settings.kind == "chat" or progress.done < progress.items:
        left = (
            ""
            if project.settings.kind == "chat"
            else f"{progress.wanted - progress.submitted} answers are left. "
        )
        return NextStep(why=f"{left}People are at work.", words="See how well", path=f"{here}/people")
    if is_admin:
        return NextStep(
            why="Every item has its answers.",
            words="Save a version to train on",
            path=f"/admin/datasets?project={project.id}",
        )
    return NextStep(why="Every item has its answers.", words="See them", path=f"{here}/items")
