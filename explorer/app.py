"""The explorer over HTTP: its page, and what the page asks for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from explorer.guard import Guard
from explorer.session import HORIZON, Session
from explorer.uploads import LARGEST
from tools import UserError

PAGE = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
WORDS = 256 << 10  # bytes of a request that is no upload
UPLOADS = 4  # at once: each is in memory until it has been looked at
# Where what is still on its way is not read, the connection cannot be used again.
UNREAD = {"connection": "close"}
FAR = 1e6  # no number that is asked for is larger


class Server:
    """Answers requests about one session.

    One thread computes, another waits for the live environment: whoever drags a slider does not
    wait for who plays.

    Args:
        session: what is explored.
    """

    def __init__(self, session: Session):
        self._session = session
        self._computing = ThreadPoolExecutor(1, "explorer-compute")
        self._playing = ThreadPoolExecutor(1, "explorer-play")
        self._uploads = asyncio.Semaphore(UPLOADS)

    async def subject(self, request: Request) -> Response:
        """What there is."""
        return JSONResponse(await self._compute(self._session.describe))

    async def clip(self, request: Request) -> Response:
        """A sequence, by its name."""
        name = request.query_params.get("id", "")
        return JSONResponse(await self._compute(self._session.open, name))

    async def upload(self, request: Request) -> Response:
        """A sequence of a file, which is the request's body."""
        if self._uploads.locked():
            text = f"{UPLOADS} uploads are at work already: try again when one has ended"
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, text, UNREAD)
        async with self._uploads:
            content = await body(request, LARGEST)
            return JSONResponse(await self._compute(self._session.upload, content))

    async def begin(self, request: Request) -> Response:
        """A new episode of the live environment."""
        given = await Words.of(request)
        name = await self._play(self._session.begin, given.text("look"))
        return JSONResponse(await self._compute(self._session.open, name))

    async def play(self, request: Request) -> Response:
        """More rows of the live episode."""
        given = await Words.of(request)
        name, steps = given.text("id"), given.integer("steps", 1, HORIZON)
        since = await self._play(self._session.play, name, given.action(), steps)
        return JSONResponse(await self._compute(self._session.open, name, since))

    async def pictures(self, request: Request) -> Response:
        """The true frame and what models draw."""
        given = await Words.of(request)
        latents = given.take("latents", dict)
        numbers = {name: Words(latents).numbers(name) for name in latents}
        where = given.text("id"), given.integer("row", 0)
        return png(await self._compute(self._session.pictures, *where, numbers))

    async def strip(self, request: Request) -> Response:
        """Seven pictures along one latent."""
        given = await Words.of(request)
        latent = given.text("model"), given.numbers("latent"), given.integer("index", 0)
        where = given.text("id"), given.integer("row", 0)
        reach = given.number("reach")
        return png(await self._compute(self._session.strip, *where, *latent, reach))

    async def imagine(self, request: Request) -> Response:
        """An open-loop prediction."""
        given = await Words.of(request)
        latent = given.text("model"), given.numbers("latent")
        where = given.text("id"), given.integer("row", 0)
        how = given.action(), given.integer("horizon", 1, HORIZON)
        return JSONResponse(await self._compute(self._session.imagine, *where, *latent, *how))

    async def _compute(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._computing, function, *args)

    async def _play(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._playing, function, *args)

    async def close(self) -> None:
        """Ends the live environment, when its last step has been made, and the threads."""
        await self._play(self._session.close)
        self._computing.shutdown()
        self._playing.shutdown()


class Words:
    """What a request has said, by names; whatever it lacks or has of another kind is refused.

    Args:
        given: the JSON object of its body.
    """

    def __init__(self, given: dict[str, Any]):
        self._given = given

    @classmethod
    async def of(cls, request: Request) -> Words:
        """The body of a request.

        Raises:
            UserError: it is no JSON object.
        """
        content = await body(request, WORDS)
        try:
            given = json.loads(content)
        except (ValueError, RecursionError):
            given = None
        if not isinstance(given, dict):
            raise UserError("the request is no JSON object")
        return cls(given)

    def take(self, name: str, kind: type | tuple[type, ...]) -> Any:
        """The value of that name."""
        value = self._given.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{name[:40]!a} is missing in the request, or of a wrong kind")
        return value

    def text(self, name: str) -> str:
        """A text."""
        return self.take(name, str)

    def number(self, name: str) -> float:
        """A finite number."""
        return _finite(name, self.take(name, (int, float)))

    def integer(self, name: str, low: int, high: int = 1 << 31) -> int:
        """A whole number from ``low`` to ``high``."""
        value = self.take(name, int)
        if not low <= value <= high:
            raise UserError(f"{name[:40]!a} is not from {low} to {high}")
        return value

    def numbers(self, name: str) -> list[float]:
        """A list of finite numbers."""
        return [_finite(name, value) for value in self.take(name, list)]

    def action(self) -> str | list[float]:
        """An action: who chooses it, or its numbers."""
        value = self.take("action", (str, list))
        return value if isinstance(value, str) else self.numbers("action")


def _finite(name: str, value: Any) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not abs(value) <= FAR or not math.isfinite(value):
        raise UserError(f"{name[:40]!a} has what is no number from −{FAR:g} to {FAR:g}")
    return float(value)


async def body(request: Request, largest: int) -> bytes:
    """The body of a request, of which no more is read than may be.

    Raises:
        HTTPException: it is larger.
    """
    claimed = request.headers.get("content-length", "0")
    parts, size = [], int(claimed) if claimed.isdecimal() else 0
    if size <= largest:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > largest:
                break
            parts.append(part)
    if size > largest:
        text = f"that is larger than {largest / (1 << 20):g} MiB: give less"
        raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text, UNREAD)
    return b"".join(parts)


def png(content: bytes) -> Response:
    """A PNG as an answer."""
    return Response(content, media_type="image/png")


async def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, HTTPStatus.BAD_REQUEST)


async def _fail(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _drop(request: Request, error: Exception) -> Response:
    """Who asked has gone before all was said, and nobody reads this."""
    return Response(status_code=HTTPStatus.BAD_REQUEST)


def _file(path: Path) -> Callable[[Request], Awaitable[Response]]:
    """Answers with a file, which is read once."""
    content, kind = path.read_bytes(), KINDS[path.suffix]

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


def make_app(session: Session) -> Guard:
    """The application that serves a session, and closes it in the end."""
    server = Server(session)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await server.close()

    # Others there are a file manager's or an editor's.
    page = [path for path in PAGE.iterdir() if path.suffix in KINDS]
    files = {"/" if path.name == "index.html" else f"/{path.name}": path for path in page}
    routes = [Route(url, _file(path)) for url, path in files.items()]
    routes += [Route(f"/api/{f.__name__}", f) for f in (server.subject, server.clip)]
    asked = (server.upload, server.begin, server.play, server.pictures, server.strip)
    routes += [Route(f"/api/{f.__name__}", f, methods=["POST"]) for f in (*asked, server.imagine)]
    errors: dict[Any, Any] = {UserError: _refuse, HTTPException: _fail, ClientDisconnect: _drop}
    # Around it, as its own middleware does not see its answer to what has failed.
    return Guard(Starlette(routes=routes, exception_handlers=errors, lifespan=lifespan))
