"""A process that appends to a journal until it is killed, and prints each entry that was acknowledged.

Run as `python journal_child.py FILE SESSIONS`: prints `ready`, then `SESSION SEQ` a line. Where the
journal fails it ends with 3, and says on stderr why, and what is answered to those who ask then.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys

from journal_entries import entry_after

from runtime.errors import StoreUnavailable
from runtime.stores.duckdb import DuckDBStore


async def append_for_ever(store: DuckDBStore, session_id: str) -> None:
    """One session's turns, each printed once it is durable."""
    head = await store.head(session_id)
    for _ in itertools.count():
        head = entry_after(head, session_id)
        await store.append(head)
        sys.stdout.write(f"{session_id} {head.seq}\n")
        sys.stdout.flush()


async def main(file: str, sessions: int) -> None:
    """Append to all sessions at once."""
    store = DuckDBStore(file, url="http://127.0.0.1:8000")
    await store.open()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    try:
        await asyncio.gather(*(append_for_ever(store, f"s{number}") for number in range(sessions)))
    except StoreUnavailable:
        sys.stderr.write(f"failed: {store.failed}\n")
        for asked in (store.append(entry_after(None, "late")), store.head("cold"), store.ping()):
            try:
                await asked
            except StoreUnavailable as refused:
                sys.stderr.write(f"refused: {refused.message}\n")
        sys.stderr.flush()
        os._exit(3)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
