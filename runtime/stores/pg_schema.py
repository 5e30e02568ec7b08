"""The database's tables, made and changed by numbered files in `sql/`, each once."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from runtime.errors import StoreUnavailable
from runtime.stores.pg_pool import Conflict, Link, Lost, Rejected, pause, unavailable
from runtime.stores.pg_statements import BEGIN, COMMIT, IMPATIENT, ROLLBACK

if TYPE_CHECKING:
    from runtime.stores.pg_pool import Pool

MIGRATE_S = 600.0
"""Seconds that the database may take to change its tables, or to wait for another who does."""
TRIES = 5
"""How often the very first table is tried: two who create it at once may get in each other's way."""
START_HINT = "Is the database up, is its address right, and may its user create tables? The log has the reason."

_TABLE = """
    CREATE TABLE IF NOT EXISTS edgewise_migrations (
        number bigint PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL
    )"""
_HAS_TABLE = "SELECT to_regclass('edgewise_migrations') IS NOT NULL, current_setting('server_encoding')"
_NEWEST = "SELECT coalesce(max(number), 0) FROM edgewise_migrations"
_LOCK = "LOCK TABLE edgewise_migrations IN EXCLUSIVE MODE"
_APPLIED = """
    INSERT INTO edgewise_migrations (number, name, applied_at)
    VALUES (%(number)s, %(name)s, statement_timestamp())"""


@cache
def migrations() -> tuple[tuple[int, str, str], ...]:
    """Number, name and text of each file, in order; numbers begin at 1 and have no gaps."""
    files = sorted(file.name for file in resources.files(__package__).joinpath("sql").iterdir())
    texts = {name: resources.files(__package__).joinpath("sql", name).read_text("utf-8") for name in files}
    return tuple((int(name[:4]), name, text) for name, text in texts.items() if name.endswith(".sql"))


async def make_ready(pool: Pool) -> None:
    """Bring the tables to this version; where another host does, wait for it.

    Raises StoreUnavailable, also where the tables are of a newer version than this one knows.
    """
    if not await pool.retried(_is_current):
        await _make_table(pool)
        await pool.retried(_migrated, MIGRATE_S)


async def _is_current(link: Link) -> bool:
    """Whether nothing is left to do; the rights to change tables are then not needed."""
    ((has_table, encoding),) = await link.rows(_HAS_TABLE)
    if encoding != "UTF8":
        raise StoreUnavailable(
            f"the database's encoding is {encoding}, and Chinese text needs UTF8",
            hint="Create it with ENCODING 'UTF8' TEMPLATE template0.",
        )
    return bool(has_table) and not _missing_after(await _newest(link))


async def _make_table(pool: Pool) -> None:
    for tried in range(1, TRIES + 1):
        try:
            await pool.run(lambda link: link.rows(_TABLE))
        except (Rejected, Lost, Conflict) as error:
            # IF NOT EXISTS does not keep two from creating it at the same moment; what was lost may be done twice.
            if tried == TRIES:
                raise unavailable(error, START_HINT) from error
            await pause()
        else:
            return


async def _migrated(link: Link) -> None:
    await link.each((BEGIN, {}), (IMPATIENT, {}), (_LOCK, {}))
    missing = _missing_after(await _newest(link))
    for number, name, text in missing:
        await link.script(text)
        await link.rows(_APPLIED, {"number": number, "name": name})
    await link.rows(COMMIT if missing else ROLLBACK)


async def _newest(link: Link) -> int:
    return int((await link.rows(_NEWEST))[0][0])


def _missing_after(newest: int) -> list[tuple[int, str, str]]:
    known = migrations()
    if newest > known[-1][0]:
        raise StoreUnavailable(
            f"the database's tables have version {newest}, and this version of Edgewise knows {known[-1][0]}",
            hint="Run the newer version.",
        )
    return [each for each in known if each[0] > newest]
