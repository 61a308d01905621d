"""Who asks, and what that key is for."""

from __future__ import annotations

import asyncio
import time

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from central_index.keys import Keys, Role, digest
from central_index.sessions import COOKIE, LONGEST_SECONDS, Sessions
from central_index.store import Store
from central_index.web import OK, json_body, refusal

#: A guesser gets so many tries in a minute from one address; the keys are long.
_LOGINS_PER_MINUTE = 30
#: Anybody may send one.
_LARGEST_LOGIN_BYTES = 16 * 1024
#: A password takes 64 MiB and a core's time: so many are looked at together, whoever sends them, and the others wait.
_LOGINS_TOGETHER = 2

log = structlog.get_logger()


class Access:
    """Keys in the header X-Api-Key, and logins of the page."""

    def __init__(self, keys: Keys, store: Store) -> None:
        self._keys = keys
        self._store = store
        self._sessions = Sessions(store)
        self._looked_at = asyncio.Semaphore(_LOGINS_TOGETHER)

    async def role(self, request: Request) -> Role | None:
        key = request.headers.get("x-api-key")
        if key is not None:
            return self._keys.role(key)
        key_digest = await self._sessions.key_digest(request.cookies.get(COOKIE, ""))
        return self._keys.role_of_digest(key_digest) if key_digest is not None else None

    async def writer(self, request: Request) -> Role:
        """Raises HTTPException."""
        role = await self.role(request)
        if role is None:
            raise HTTPException(401, "This key isn't known.")
        if not role.writes:
            raise HTTPException(403, "This key is for reading.")
        return role

    async def reader(self, request: Request) -> Role:
        """Raises HTTPException."""
        role = await self.role(request)
        if role is None:
            raise HTTPException(401, "Reading needs a key: send it as X-Api-Key, or log in on the page.")
        if role.writes:
            raise HTTPException(403, "This key is for a centre that writes; reading needs a reader's.")
        return role

    async def login(self, request: Request) -> Response:
        address = request.client.host if request.client else ""
        # First, since a slow one would hold up the others.
        content = await json_body(request, _LARGEST_LOGIN_BYTES)
        async with self._looked_at:
            now = time.time()
            # In here: those that come together count each other.
            if await self._store.refused_logins(address, now - 60) >= _LOGINS_PER_MINUTE:
                return refusal(429, "Too many tries: wait a minute.", {"Retry-After": "60"})
            key_digest = await self._digest_of(content)
            role = self._keys.role_of_digest(key_digest) if key_digest is not None else None
            if key_digest is None or role is None or role.writes:
                await self._store.refuse_login(address, now)
                log.warning("A login was refused.", address=address)
                return refusal(401, "This is no reader's key, or not this name's password.")
        log.info("login", reader=role.name)
        response = JSONResponse(OK)
        response.set_cookie(
            COOKIE,
            await self._sessions.open(key_digest),
            max_age=LONGEST_SECONDS,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def _digest_of(self, content: object) -> bytes | None:
        """Of the key, or of what the file holds of the name's password."""
        if not isinstance(content, dict):
            return None
        name, password, key = content.get("name"), content.get("password"), content.get("key")
        if isinstance(name, str) and isinstance(password, str):
            return await run_in_threadpool(self._keys.digest_of_password, name, password)
        return digest(key) if isinstance(key, str) and self._keys.role(key) is not None else None

    async def logout(self, request: Request) -> Response:
        await self._sessions.close(request.cookies.get(COOKIE, ""))
        response = JSONResponse(OK)
        response.delete_cookie(COOKIE)
        return response
