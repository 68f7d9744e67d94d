"""Who may see and steer the simulator: whoever is on this machine, and no web page from elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

HERE = re.compile(r"(?:127\.0\.0\.1|localhost)(?::\d+)?", re.IGNORECASE)


def is_for_people(path: str) -> bool:
    """Whether this is the page or the control API: nothing that the simulated API has."""
    return path == "/" or path.startswith("/_control/")


@web.middleware
async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn away what a browser sends on behalf of another site."""
    if is_for_people(request.path) and not _is_from_here(request):
        message = "This comes from elsewhere: only this machine, by 127.0.0.1 or localhost, is let in."
        return web.json_response({"message": message}, status=403)
    return await handler(request)


def _is_from_here(request: web.Request) -> bool:
    # A browser tells who asks in Origin. A name that is made to point here shows in Host.
    host = request.host
    return bool(HERE.fullmatch(host)) and request.headers.get("Origin", f"http://{host}") in {
        f"http://{host}",
        f"https://{host}",
    }
