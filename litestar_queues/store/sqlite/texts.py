"""Large texts, beside the row of their job.

SQLite writes a row that changes its length anew, with every page that its texts fill, and a job's row
changes its length at each turn of its life. 100 KB of arguments were so written three times, and took
370 µs of CPU at the claim and 325 at the end, where they now take 60 and 145, most of it the result's.
So a text above ``LARGE`` has a row of its own, which is written once; in the job's row it is empty,
which no JSON is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from litestar_queues.store.sqlite.transaction import ManyRows, Transaction, numbers_of

LARGE = 1_800
"""Characters: arguments and a result that are no longer fit a page of 4 KiB together with the rest of their row."""
Kind = Literal["payload", "result"]
PAYLOAD = "iif(payload = '', ifnull((SELECT text FROM lq_payload WHERE job = lq_job.number), ''), payload)"
RESULT = "iif(result = '', (SELECT text FROM lq_result WHERE job = lq_job.number), result)"
"""The text of a job's row, wherever it is."""

_KEEP: dict[Kind, ManyRows] = {
    "payload": ManyRows("INSERT OR REPLACE INTO lq_payload (job, text) VALUES @rows", 2),
    "result": ManyRows("INSERT OR REPLACE INTO lq_result (job, text) VALUES @rows", 2),
}
_DROP: dict[Kind, str] = {
    "payload": "DELETE FROM lq_payload WHERE job IN (SELECT value FROM json_each(?))",
    "result": "DELETE FROM lq_result WHERE job IN (SELECT value FROM json_each(?))",
}
# One row of two values, not one for each text, and no JSON: see ``transaction``. To put 100 KB into a JSON text and take
# it out of that again costs 190 µs.
_READ = (
    "SELECT json_group_array(json_array(job, length(CAST(text AS BLOB)))), CAST(group_concat(text, '') AS BLOB), "
    "(SELECT encoding FROM pragma_encoding) "
    "FROM lq_payload WHERE job IN (SELECT value FROM json_each(?))"
)
_lengths = msgspec.json.Decoder(list[tuple[int, int]])


def inline(text: str) -> str:
    """Return what the job's row has of *text*: all of it, or nothing."""
    return text if len(text) <= LARGE else ""


def keep(transaction: Transaction, kind: Kind, texts: Sequence[tuple[int, str]]) -> None:
    """Keep *texts*, each longer than ``LARGE`` and with the number of its job."""
    if texts:
        _KEEP[kind].run(transaction, texts)


def drop(transaction: Transaction, kind: Kind, numbers: Sequence[int]) -> None:
    """Delete the texts of these jobs, where they have such."""
    statement = _DROP[kind]
    transaction.change(statement, (numbers_of(numbers),))


def payloads(transaction: Transaction, numbers: Sequence[int]) -> dict[int, str]:
    """Return the arguments of these jobs, which their rows have not."""
    [(lengths, together, encoding)] = transaction.rows(_READ, (numbers_of(numbers),))
    found: dict[int, str] = {}
    start = 0
    for number, length in _lengths.decode(lengths):
        found[number] = str(memoryview(together)[start : start + length], encoding, errors="replace")
        start += length
    return found
