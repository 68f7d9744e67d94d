"""The page: one file, sent with a policy that lets in nothing but its own script and style."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from aiohttp import web

PAGE = Path(__file__).with_name("page.html")
INLINE = re.compile(r"<(?P<tag>script|style)>(?P<text>.*?)</(?P=tag)>", re.DOTALL)


async def page(_: web.Request) -> web.Response:
    """Send the page."""
    text = PAGE.read_text(encoding="utf-8")
    headers = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": _policy(text),
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(text=text, content_type="text/html", headers=headers)


def _policy(text: str) -> str:
    own = [
        f"{match['tag']}-src 'sha256-{base64.b64encode(hashlib.sha256(match['text'].encode()).digest()).decode()}'"
        for match in INLINE.finditer(text)
    ]
    rules = ["default-src 'none'", *own, "connect-src 'self'", "img-src data:"]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"])
