"""The store's routes: what they take, who may ask, one work at a time, and how a work that ends early is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from conftest import tiny
from journal_entries import entry_after
from served import PATIENCE_S, living

from runtime import history
from runtime.errors import StoreUnavailable
from runtime.narrators.offline import Offline
from runtime.progress import Done, Found, Progress, Step
from runtime.session import Invoke, sealed
from runtime.stores.duckdb import DuckDBStore
from runtime.stores.memory import MemoryStore
from runtime.turn import Runtime, play
from server import tending
from server.app import create_app
from server.owner import Inside, Owner
from server.play.table import Refused
from server.settings import Settings
from server.tend.working import FINDINGS, OUR_FAULT, WRONG_USE, report
from server.tend.working import ended as exit_code_of

HALL = """
initial: {event: INIT, target: HALL}
states:
  HALL:
    options:
      - {key: stay, text: Stay, target: HALL}
      - {key: leave, text: Leave, target: END_OUT}
  END_OUT: {type: final}
"""
TOKENS = Settings(play_tokens=("player-token",), operator_tokens=("operator-token",))
OPERATOR = {"Authorization": "Bearer operator-token"}
LINES = {"Content-Type": "application/x-ndjson"}
DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000
JSON = "application/json"


class Web:
    """A client in the server's own loop."""

    def __init__(self, client: httpx.AsyncClient, app: Any) -> None:
        self.client = client
        self.house = app.state["house"]
        self.runtime: Runtime = self.house.runtime

    async def steps(self, task: str, body: Any = None, **more: Any) -> list[dict[str, Any]]:
        """The lines of a task that succeeds."""
        answer = await self.client.post(f"/store/{task}", **(more or {"json": body or {}}))
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.text.isascii()
        return [json.loads(line) for line in answer.text.splitlines()]

    async def refused(self, task: str, status: int, **more: Any) -> dict[str, Any]:
        """The `data` of a refusal."""
        answer = await self.client.post(f"/store/{task}", **({"json": {}} | more))
        assert answer.status_code == status, answer.text
        return answer.json()["data"]

    async def play(self, session_id: str, *, to_end: bool = False) -> None:
        await play(self.runtime, Invoke(session_id=session_id, event="INIT"))
        if to_end:
            await play(self.runtime, Invoke(session_id=session_id, selected_option_id=2))

    async def ids(self) -> set[str]:
        return {head.session_id for head in (await self.runtime.store.sessions())[0]}


@asynccontextmanager
async def served(
    folder: Path, store: Any = None, settings: Settings | None = None, *, peer: str = "127.0.0.1", **more: Any
) -> AsyncIterator[Web]:
    """The application in this loop, asked from `peer`."""
    machine = tiny(HALL)
    runtime = Runtime(
        store or MemoryStore(), Offline(), {machine.name: machine}, machine.name, clock_ms=lambda: NOW_MS, **more
    )
    given = msgspec.structs.replace(settings or Settings(), store="memory:", project=str(folder))
    app = create_app(given, runtime)
    async with (
        living(app),
        httpx.AsyncClient(transport=Inside(app, peer), base_url="http://test") as client,
    ):
        yield Web(client, app)


def files_in(folder: Path) -> list[Path]:
    return [*folder.rglob("*")]


class Held(MemoryStore):
    """A store whose compacting goes as far as the test lets it."""

    owner_token = "the journal's own token"  # noqa: S105 - a test's

    def __init__(self, fails: Exception | None = None) -> None:
        super().__init__()
        self.may_go = asyncio.Event()
        self.has_ended = asyncio.Event()
        self.fails = fails
        self.went_to = 0

    async def compact(self) -> AsyncIterator[Step]:
        """Two steps and the end."""
        try:
            yield Progress(1, 2)
            self.went_to = 1
            await self.may_go.wait()
            if self.fails:
                raise self.fails
            yield Found("一处空白", ("s1",))
            self.went_to = 2
            yield Done(is_good=True, facts={"bytes": 7})
        finally:
            self.has_ended.set()


# What is asked.


async def test_an_unknown_task_is_not_found_and_the_others_are_named(tmp_path: Path):
    async with served(tmp_path) as web:
        refused = await web.refused("verifi", 404)
    assert (refused["error"], refused["path"]) == ("not_found", "/store/verifi")
    assert refused["tasks"] == ["backup", "verify", "compact", "prune", "migrate", "coverage", "import"]


async def test_every_task_is_an_operators(tmp_path: Path):
    async with served(tmp_path, settings=TOKENS) as web:
        for task in ("backup", "verify", "compact", "prune", "migrate", "import"):
            assert (await web.refused(task, 401))["role_needed"] == "operator"
            player = {"Authorization": "Bearer player-token"}
            assert (await web.refused(task, 403, headers=player))["error"] == "forbidden"
        assert [step["type"] for step in await web.steps("compact", json={}, headers=OPERATOR)] == ["done"]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["backup", "compact", "prune", "import"])
@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_foreign_web_page_cant_tend_the_journal(tmp_path: Path, task: str, kind: str | None):
    """What a browser sends to another site without asking first is refused, an empty body too."""
    headers = {"Origin": "https://e.vil", **({"Content-Type": kind} if kind else {})}
    async with served(tmp_path) as web:
        await web.play("s1", to_end=True)
        for body in (b"", b'{"older_than_days": 0}'):
            refused = await web.refused(task, 415, json=None, content=body, headers=headers)
            assert refused["error"] == "unsupported_media_type"
        assert await web.ids() == {"s1"}
    assert files_in(tmp_path) == []


async def test_no_body_at_all_asks_for_what_every_default_says(tmp_path: Path):
    """As `curl -X POST` sends it: without a Content-Type."""
    async with served(tmp_path) as web:
        for task in ("verify", "compact", "backup", "migrate"):
            assert (await web.steps(task, content=b""))[-1]["is_good"]
        needed = await web.refused("prune", 422, json=None)
        assert [each["loc"] for each in needed["details"]] == [["body", "older_than_days"]]
        assert (await web.refused("verify", 415, json=None, content=b"{}"))["error"] == "unsupported_media_type"


async def test_a_body_has_all_its_faults_told_at_once(tmp_path: Path):
    async with served(tmp_path) as web:
        wrong = await web.refused("prune", 422, json={"older_than": 3, "dry_run": "yes"})
        none = await web.refused("prune", 422)
        broken = await web.refused("verify", 400, content=b"{", headers={"Content-Type": JSON})
        large = await web.refused("verify", 413, content=b" " * 300_000, headers={"Content-Type": JSON})
        asked = await web.refused("compact?now=1", 422)
    assert sorted(each["loc"][-1] for each in wrong["details"]) == ["dry_run", "older_than", "older_than_days"]
    assert [each["loc"] for each in none["details"]] == [["body", "older_than_days"]]
    assert (broken["error"], large["error"]) == ("malformed_json", "body_too_large")
    assert asked["details"][0]["loc"] == ["query", "now"]


# Backups.


@pytest.mark.slow
async def test_a_store_without_a_backup_of_its_own_is_copied_into_a_journal_that_opens(tmp_path: Path):
    async with served(tmp_path) as web:
        await web.play("a.1", to_end=True)
        await web.play("b")
        last = (await web.steps("backup", {"path": "monday.duckdb"}))[-1]
        secret = await web.runtime.store.secret()
        rows = [(row.session_id, row.seq, row.body, row.hash) async for row in web.runtime.store.walk()]
    path = tmp_path / "data" / "monday.duckdb"
    assert (last["type"], last["is_good"], last["facts"]["path"]) == ("done", True, str(path))
    copied = DuckDBStore(path)
    await copied.open()
    kept = [(row.session_id, row.seq, row.body, row.hash) async for row in copied.walk()]
    assert sorted(kept) == sorted(rows)
    assert await copied.secret() == secret
    await copied.close()


@pytest.mark.parametrize("path", ["../out.duckdb", "/var/out.duckdb", "a/b.duckdb", ".hidden", "a b", "", "灯"])
async def test_an_operator_names_a_file_of_the_data_folder_and_no_other(tmp_path: Path, path: str):
    async with served(tmp_path, settings=TOKENS) as web:
        refused = await web.refused("backup", 422, json={"path": path}, headers=OPERATOR)
    assert refused["details"][0]["loc"] == ["body", "path"]
    assert files_in(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "edgewise.duckdb.wal", "edgewise.duckdb.head", "edgewise.duckdb.lock", "edgewise.duckdb.tmp",
        "edgewise.duckdb.x.duckdb", "other.duckdb.wal", "edgewise.duckdb.part", "monday", "monday.db", "duckdb",
    ],
)  # fmt: skip
async def test_a_backup_has_no_name_that_a_journal_gives_to_a_part_of_itself(tmp_path: Path, name: str):
    """DuckDB would write its log into a file that stands where the log should."""
    own = {"Authorization": f"Bearer {Held.owner_token}"}
    async with served(tmp_path, Held()) as web:
        web.house.tending.journal = "edgewise.duckdb"
        for path in (name, str(tmp_path / name)):
            refused = await web.refused("backup", 422, json={"path": path}, headers=own)
            (fault,) = refused["details"]
            assert fault["loc"] == ["body", "path"]
            assert "must end in .duckdb and not begin with 'edgewise.duckdb.'" in fault["msg"]
            assert "monday.duckdb" in fault["msg"]
        assert (await web.steps("backup", {"path": "edgewise-2.duckdb"}))[-1]["is_good"]


def test_the_journal_that_is_tended_is_the_one_of_the_settings(tmp_path: Path):
    there = tending.Tending(Settings(store=f"duckdb://{tmp_path}/日/edge.duckdb"))
    assert (there.folder, there.journal) == (tmp_path / "日", "edge.duckdb")
    assert tending.Tending(Settings(store="memory:", project=str(tmp_path))).journal == ""


async def test_a_backup_replaces_nothing(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "old.duckdb").write_bytes(b"mine")
    async with served(tmp_path) as web:
        refused = await web.refused("backup", 422, json={"path": "old.duckdb"})
    assert refused["details"][0]["type"] == "exists"
    assert (tmp_path / "data" / "old.duckdb").read_bytes() == b"mine"


# The journal's own token.


@pytest.mark.slow
async def test_the_journals_own_token_makes_an_operator_on_this_machine_only(tmp_path: Path):
    own = {"Authorization": f"Bearer {Held.owner_token}"}
    path = str(tmp_path / "elsewhere.duckdb")
    async with served(tmp_path, Held(), TOKENS) as web:
        assert (await web.steps("backup", json={"path": path}, headers=own))[-1]["facts"]["path"] == path
        assert (await web.client.get("/sessions", headers=own)).status_code == 200
        wrong = {"Authorization": f"Bearer {Held.owner_token}x"}
        assert (await web.refused("verify", 401, headers=wrong))["error"] == "unauthenticated"
    for peer in ("192.0.2.7", "::ffff:192.0.2.7", ""):
        async with served(tmp_path, Held(), TOKENS, peer=peer) as web:
            assert (await web.refused("verify", 401, headers=own))["error"] == "unauthenticated"


async def test_where_everyone_is_an_operator_only_the_own_token_names_files_elsewhere(tmp_path: Path):
    path = str(tmp_path / "elsewhere.duckdb")
    async with served(tmp_path, Held()) as web:
        assert (await web.refused("backup", 422, json={"path": path}))["error"] == "validation_error"
        own = {"Authorization": f"Bearer {Held.owner_token}"}
        assert (await web.steps("backup", json={"path": path}, headers=own))[-1]["is_good"]


async def test_no_token_at_all_is_no_own_token(tmp_path: Path):
    """A store without a token of its own doesn't let an empty one in."""
    async with served(tmp_path, settings=TOKENS) as web:
        for header in ("Bearer ", "Bearer", ""):
            assert (await web.refused("verify", 401, headers={"Authorization": header}))["error"] == "unauthenticated"


# The work.


async def test_steps_are_lines_that_come_as_they_are_made(tmp_path: Path):
    store = Held()
    async with served(tmp_path, store) as web, web.client.stream("POST", "/store/compact", json={}) as answer:
        pieces = answer.aiter_bytes()
        first = await anext(pieces)
        assert not store.has_ended.is_set()
        store.may_go.set()
        rest = b"".join([piece async for piece in pieces])
    assert json.loads(first) == {"type": "progress", "done": 1, "total": 2}
    assert [json.loads(line) for line in rest.splitlines()] == [
        {"type": "found", "what": "一处空白", "sessions": ["s1"]},
        {"type": "done", "is_good": True, "facts": {"bytes": 7}},
    ]


async def test_one_work_at_a_time(tmp_path: Path):
    store = Held()
    async with served(tmp_path, store) as web:
        async with web.client.stream("POST", "/store/compact", json={}) as answer:
            await anext(answer.aiter_bytes())
            refused = await web.refused("prune", 503, json={"older_than_days": 0})
            assert (refused["error"], refused["task"], refused["retry"]) == ("overloaded", "compact", "same")
            store.may_go.set()
        assert (await web.steps("prune", {"older_than_days": 0}))[-1]["is_good"]


class Endless(Held):
    """A store whose compacting never ends by itself."""

    async def compact(self) -> AsyncIterator[Step]:
        """Step after step."""
        try:
            while True:
                self.went_to += 1
                yield Progress(self.went_to)
                await asyncio.sleep(0)
        finally:
            self.has_ended.set()


async def test_a_client_that_goes_away_ends_the_work_at_its_next_step(tmp_path: Path):
    store = Endless()
    async with served(tmp_path, store) as web:
        async with web.client.stream("POST", "/store/compact", json={}) as answer:
            await anext(answer.aiter_bytes())

        await asyncio.wait_for(store.has_ended.wait(), PATIENCE_S)

        assert web.house.tending.busy == ""
        assert (await web.steps("prune", {"older_than_days": 0}))[-1]["is_good"]


async def test_a_server_that_is_to_stop_ends_the_work_with_a_line_that_says_so(tmp_path: Path):
    store = Held()
    async with served(tmp_path, store) as web:
        web.house.tending.stop()
        steps = await web.steps("compact")
    assert [step["type"] for step in steps] == ["progress", "failed"]
    assert steps[-1]["error"] == "store_unavailable"
    assert store.went_to == 0


@pytest.mark.slow
async def test_what_fails_at_first_is_a_plain_refusal_and_what_fails_later_the_last_line(tmp_path: Path):
    store = Held(StoreUnavailable("the disk is full", "Make room."))
    store.may_go.set()
    async with served(tmp_path, store) as web:
        steps = await web.steps("compact")
        assert [step["type"] for step in steps] == ["progress", "failed"]
        assert steps[-1] == {
            "type": "failed", "error": "store_unavailable", "message": "the disk is full", "hint": "Make room.",
        }  # fmt: skip
        store.sessions = None  # type: ignore[assignment] - what it raises is nobody's refusal
        assert (await web.refused("prune", 500, json={"older_than_days": 0}))["error"] == "internal_error"
        assert web.house.tending.busy == ""


@pytest.mark.slow
async def test_a_crash_after_the_first_line_tells_nothing_of_itself(tmp_path: Path, capsys):
    store = Held(RuntimeError("裂帛 is in the text"))
    store.may_go.set()
    async with served(tmp_path, store) as web:
        last = (await web.steps("compact"))[-1]
    assert (last["type"], last["error"]) == ("failed", "internal_error")
    assert "裂帛" not in json.dumps(last, ensure_ascii=False)
    assert "裂帛" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("store_unavailable", OUR_FAULT), ("internal_error", OUR_FAULT), ("broken_off", OUR_FAULT),
        ("unreachable", WRONG_USE), ("validation_error", WRONG_USE), ("forbidden", WRONG_USE),
    ],
)  # fmt: skip
def test_a_command_says_by_its_exit_code_whose_fault_it_was(error: str, code: int, capsys):
    async def work() -> int:
        raise Refused(error, "it failed", "Mend it.")

    assert exit_code_of(work()) == code
    assert capsys.readouterr().err == "it failed. Mend it.\n"


@pytest.mark.parametrize(
    ("told", "code", "said"),
    [
        ([{"type": "failed", "error": "store_unavailable", "message": "盘满了"}], OUR_FAULT, "盘满了"),
        ([{"type": "progress", "done": 1, "total": 2}], OUR_FAULT, "here broke off before verify was done"),
        ([{"type": "done", "is_good": False, "facts": {}}], FINDINGS, ""),
    ],
)
def test_work_that_fails_on_its_way_is_no_wrong_use(told: list[Any], code: int, said: str, capsys):
    async def answered(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"".join(json.dumps(each).encode() + b"\n" for each in told))

    async def work() -> int:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answered), base_url="http://here") as client:
            return await report(Owner(client, "here").steps("verify"), "json", "verifying")

    assert exit_code_of(work()) == code
    assert said in capsys.readouterr().err


def test_a_command_that_can_write_no_more_ends_with_all_that_it_began():
    """As `edgewise sessions export | head` does; nobody is left to read what the application still sends."""
    gone: list[str] = []

    async def endless(_: Any, __: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
        finally:
            gone.append("the application")

    async def work() -> int:
        async with httpx.AsyncClient(transport=Inside(endless), base_url="http://here") as client:  # type: ignore[arg-type]
            pieces = Owner(client, "here").download("/x")
            async for _ in pieces:
                raise BrokenPipeError
        return 0

    with pytest.raises(BrokenPipeError):
        exit_code_of(work())
    assert gone == ["the application"]


async def test_a_store_that_needs_no_compacting_says_so(tmp_path: Path):
    async with served(tmp_path) as web:
        (only,) = await web.steps("compact")
    assert only["is_good"]
    assert "nothing to do" in only["facts"]["note"]


# Pruning.


async def test_prune_forgets_ended_sessions_that_are_older(tmp_path: Path):
    store = MemoryStore()
    for name, days, ended in (("old", 31, True), ("young", 29, True), ("left", 400, False)):
        await store.append(entry_at(NOW_MS - days * DAY_MS, name, ended=ended))
    async with served(tmp_path, store) as web:
        dry = await web.steps("prune", {"older_than_days": 30, "dry_run": True})
        assert [step["sessions"] for step in dry if step["type"] == "found"] == [["old"]]
        assert await web.ids() == {"old", "young", "left"}

        done = (await web.steps("prune", {"older_than_days": 30}))[-1]
        assert done["facts"] == {"sessions": 1, "entries": 1, "in_progress": 0, "dry_run": False}
        assert await web.ids() == {"young", "left"}

        await web.steps("prune", {"older_than_days": 0.5, "ended_only": False})
        assert await web.ids() == set()


def entry_at(at_ms: int, session_id: str, **after: Any) -> Any:
    """A session's only entry, as old as that."""
    return sealed(msgspec.structs.replace(entry_after(None, session_id, **after), at_ms=at_ms))


async def test_a_session_that_is_played_is_never_pruned(tmp_path: Path):
    async with served(tmp_path) as web:
        await web.play("s1", to_end=True)
        await web.play("s2", to_end=True)
        claim = await web.runtime.store.claim("s1")
        for dry_run in (True, False):
            body = {"older_than_days": 0, "ended_only": False, "dry_run": dry_run}
            facts = await facts_of(web, body)
            assert facts["in_progress"] == 1
        assert await web.ids() == {"s1"}
        await web.runtime.store.release(claim)


async def facts_of(web: Web, body: dict[str, Any]) -> dict[str, Any]:
    """What a pruning counted, as if everything had been played a while ago."""
    web.runtime.clock_ms = lambda: NOW_MS + 1
    return (await web.steps("prune", body))[-1]["facts"]


class PlayedOn(MemoryStore):
    """A store where somebody plays on a session just before it is claimed."""

    async def claim(self, session_id: str, **more: Any) -> Any:
        """The claim, after another entry."""
        head = await self.head(session_id)
        assert head is not None
        await self.append(entry_after(head, session_id, ended=True))
        return await super().claim(session_id, **more)


async def test_a_session_that_was_played_on_since_it_was_listed_is_not_pruned(tmp_path: Path):
    store = PlayedOn()
    await store.append(entry_at(NOW_MS - 40 * DAY_MS, "s1", ended=True))
    async with served(tmp_path, store) as web:
        facts = (await web.steps("prune", {"older_than_days": 30}))[-1]["facts"]
        assert (facts["sessions"], facts["in_progress"]) == (0, 1)
        assert await web.ids() == {"s1"}
        assert not await store.in_progress("s1")


async def test_a_fork_stays_whole_when_its_source_is_pruned(tmp_path: Path):
    async with served(tmp_path) as web:
        await web.play("source", to_end=True)
        await history.fork(web.runtime, "source", 1, child_id="branch")
        await facts_of(web, {"older_than_days": 0})
        assert await web.ids() == {"branch"}
        played = await play(web.runtime, Invoke(session_id="branch", selected_option_id=1))
        assert played.entry.after.step == 2


# Imports.


async def sent(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_an_import_is_limited_by_line_and_in_all(tmp_path: Path):
    declared = {**LINES, "Content-Length": str(tending.MAX_IMPORT_BYTES + 1)}
    half = b"x" * (tending.MAX_LINE_BYTES // 2 + 1)
    async with served(tmp_path) as web:
        long = await web.refused("import", 413, json=None, content=sent(half, half), headers=LINES)
        large = await web.refused("import", 413, json=None, content=b"{}", headers=declared)
        assert long["limit_bytes"] == tending.MAX_LINE_BYTES
        assert large["limit_bytes"] == tending.MAX_IMPORT_BYTES
        assert await web.ids() == set()
        assert web.house.tending.busy == ""
