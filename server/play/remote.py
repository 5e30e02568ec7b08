"""A table behind HTTP: a server's own routes, for `edgewise play --url`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from runtime.narrators.release import Hear, unheard
from server.forms import NDJSON
from server.play.local import unknown_machine
from server.play.table import Answer, Card, Refused, standing_of
from server.settings import is_loopback
from server.typed import typed

WAIT_S = 90.0
"""Seconds for one answer: a turn's own deadline is 45 s unless the server was told otherwise."""

CONNECT_S = 5.0
_STREAMED = {"Accept": f"{NDJSON}, application/json;q=0.5"}


class Remote:
    """A server at a URL, with a token where it wants one."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._token = token
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        """Make ready; the first request will tell whether a server answers."""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        timeout = httpx.Timeout(WAIT_S, connect=CONNECT_S)
        # No proxy stands between this machine and itself, whatever the environment says.
        is_near = is_loopback(urlsplit(self._url).hostname or "")
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout, trust_env=not is_near)

    async def card(self, machine: str | None) -> Card:
        """A machine of the server. Raises Refused."""
        listed = (await self._ask("GET", "/machines"))["items"]
        names = [each["name"] for each in listed]
        name = machine or next((each["name"] for each in listed if each["is_default"]), "")
        if name not in names:
            raise unknown_machine(name, names)
        told = await self._ask("GET", f"/machines/{quote(name)}")
        return Card(told["name"], told["version"], told["title"], tuple(told["languages"]), told["initial_event"])

    async def head(self, session_id: str) -> Answer | None:
        """Where a session stands: its head turn's answer. Raises Refused where it can't be read."""
        try:
            data = await self._ask("GET", f"/sessions/{quote(session_id, safe='')}")
        except Refused as refused:
            if refused.error == "session_not_found":
                return None
            raise
        return standing_of(data)

    async def invoke(self, request: Mapping[str, Any], hear: Hear = unheard) -> Answer:
        """Play one event, as a stream where it is heard and the server has one. Raises Refused."""
        if hear is unheard:
            return await self._ask("POST", "/invoke", request)
        try:
            async with self._opened.stream("POST", f"{self._url}/invoke", json=request, headers=_STREAMED) as response:
                if response.headers.get("content-type", "").partition(";")[0] != NDJSON:
                    await response.aread()
                    return self._told(response.json())
                return self._told(await _heard(response, hear))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._silent(error) from error
        except ValueError as error:
            raise self._stranger() from error

    async def replay(self, session_id: str) -> str:
        """A session as a replay's text; of a machine with secrets, for an operator's token. Raises Refused."""
        path = f"/sessions/{quote(session_id, safe='')}/export"
        try:
            response = await self._opened.get(f"{self._url}{path}", params={"format": "replay"})
            if response.is_error:
                self._told(response.json())
                raise self._stranger()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._silent(error) from error
        except ValueError as error:
            raise self._stranger() from error
        return response.text

    @property
    def keeps_sessions(self) -> bool:
        """Whether a session can be gone on with: as far as one can tell from here."""
        return True

    @property
    def options(self) -> list[str]:
        """The server."""
        return ["--url", self._url]

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The `data` of a server's answer. Raises Refused for its refusals and for its silence."""
        try:
            response = await self._opened.request(method, f"{self._url}{path}", json=body)
            envelope = response.json()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._silent(error) from error
        except ValueError as error:
            raise self._stranger() from error
        return self._told(envelope)

    @property
    def _opened(self) -> httpx.AsyncClient:
        if self._client is None:
            raise RuntimeError("the table is not open")
        return self._client

    def _told(self, envelope: Any) -> dict[str, Any]:
        """An envelope's `data`. Raises Refused where it is an error's, or none."""
        if not isinstance(envelope, dict) or not isinstance(envelope.get("data"), dict):
            raise self._stranger()
        if envelope.get("code"):
            raise Refused.of(envelope)
        data: dict[str, Any] = envelope["data"]
        return data

    def _silent(self, error: Exception) -> Refused:
        why = f" ({error})" if str(error) else ""
        hint = f"Is it running? {typed('serve')} starts one."
        return Refused("unreachable", f"no answer from {self._url}{why}", hint, retry="same")

    def _stranger(self) -> Refused:
        hint = "Give the address that `edgewise serve` printed."
        return Refused("no_edgewise", f"what answers at {self._url} is no Edgewise server", hint)


async def _heard(response: httpx.Response, hear: Hear) -> Any:
    """The envelope at the end of a stream; what comes before it is heard. Raises httpx.HTTPError, ValueError."""
    async for line in response.aiter_lines():
        event = json.loads(line)
        if event["event"] in ("turn.committed", "turn.failed"):
            return event["data"]
        hear(event["event"], event["data"])
    raise httpx.RemoteProtocolError("the stream was cut off before its end")
