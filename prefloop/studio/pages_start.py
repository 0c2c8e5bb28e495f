"""The page on which a file is dragged, looked at and made a project."""

from fastapi import APIRouter, Request, Response

from prefloop.data.detect import COLUMNS
from prefloop.data.formats import FORMATS
from prefloop.data.layouts import LAYOUTS
from prefloop.studio.pages import Admin, page

router = APIRouter(include_in_schema=False)


@router.get("/admin/import")
def import_page(request: Request, who: Admin) -> Response:
    """Drag a file, see what is in it, say what its columns are, and make a project of it."""
    return page(request, "import", who, roles=COLUMNS, formats=[*FORMATS, *LAYOUTS])
