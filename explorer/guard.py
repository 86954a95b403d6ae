"""Who may ask: pages of this server, and programs on this machine; no page of another site."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Nothing but what this server sends runs, is drawn or is asked in its page, and nobody frames it.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


class Guard:
    """Refuses what another site's page could have sent, and says in answers what a page may do.

    A page of another site reaches this machine by a name of its own that leads here (Host names
    that), or by ours (Origin and Sec-Fetch-Site name the other one).

    Args:
        app: who answers what is let through.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        reason = refusal(Headers(scope=scope), scope["path"])
        app = PlainTextResponse(f"{reason}\n", HTTPStatus.FORBIDDEN) if reason else self._app
        await app(scope, receive, answer)


def refusal(headers: Mapping[str, str], path: str) -> str | None:
    """Why a request is not answered, one line; None where it is."""
    host = headers.get("host", "")
    if not is_this_machine(host):
        return "this server answers to localhost and 127.0.0.1 alone"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{host}":
        return "a page of another site may not ask this server"
    site = headers.get("sec-fetch-site", "none")
    followed = path == "/" and headers.get("sec-fetch-mode") == "navigate"  # a link to the page
    if site not in ("none", "same-origin") and not followed:
        return "a page of another site may not ask this server"
    return None


def is_this_machine(host: str) -> bool:
    """Whether a Host header names this machine by a name that nobody else can have."""
    name, bracket, rest = host.rpartition("]") if host.startswith("[") else ("", "", host)
    before, _, port = rest.partition(":")
    if (port and not port.isdecimal()) or (bracket and before):
        return False
    name = name[1:] if bracket else before
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
