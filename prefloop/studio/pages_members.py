"""The page of a project's people."""

from fastapi import APIRouter, Request, Response

from prefloop.studio import accounts, invitations, members
from prefloop.studio.pages import Id, Manager, page
from prefloop.studio.security import studio_of
from prefloop.studio.values import PROJECT_ROLES

router = APIRouter(include_in_schema=False)


@router.get("/admin/projects/{id}/members")
def members_page(request: Request, id: Id, who: Manager) -> Response:
    """Who belongs to a project, and as what."""
    studio = studio_of(request)
    found = members.members(studio, id)
    known = {member.login for member in found}
    # Only an admin is shown who else has an account; a manager has to know the login.
    others = (
        [person.login for person in accounts.people(studio) if person.login not in known]
        if who.is_admin
        else []
    )
    return page(
        request,
        "members",
        who,
        project=studio.project(id),
        members=found,
        logins=others,
        roles=PROJECT_ROLES,
        links=invitations.links(studio, by=who.annotator, project=id),
    )
