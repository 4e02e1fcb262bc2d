"""The ledger: counters that survive a SIGKILL, in a page of mapped memory.

A count is one C call: `next` of a `map` that takes the next number of an `itertools.count` and packs it into the page.
No bytecode runs in between, so under the GIL neither a thread nor a signal handler can come between the two, and the
page never holds an older number than the counter.
"""

import functools
import itertools
import mmap
import struct
from collections.abc import Iterator
from typing import Final, Self

from .records import HEAD_BYTES, LEDGER, LEDGER_AT, decode_ledger

_SLOT: Final = struct.Struct("<Q")


class Ledger:
    """One producer's counters. `next(ledger["attempted"])` counts one attempt."""

    def __init__(self, page: mmap.mmap, *, carried: "Ledger | None" = None) -> None:
        """`carried` is what was counted before there was a page on disk; it is taken over."""
        self._page = page
        self._carried = carried
        self._seed = carried.snapshot() if carried else (0,) * len(LEDGER)
        for slot, count in enumerate(self._seed):
            _SLOT.pack_into(page, LEDGER_AT + _SLOT.size * slot, count)
        self._counters = {name: _counter(page, slot, self._seed[slot]) for slot, name in enumerate(LEDGER)}

    @classmethod
    def in_memory(cls) -> Self:
        """A ledger for as long as there is no journal."""
        return cls(mmap.mmap(-1, HEAD_BYTES))

    def __getitem__(self, name: str) -> Iterator[None]:
        """The counter of that name: `next` counts one."""
        return self._counters[name]

    def snapshot(self) -> tuple[int, ...]:
        """The counts, in the order of records.LEDGER."""
        counts = decode_ledger(self._page)
        if self._carried is None:
            return counts
        # A thread may have been counting in the carried ledger while it was taken over.
        late = zip(counts, self._carried.snapshot(), self._seed, strict=True)
        return tuple(count + now - then for count, now, then in late)

    def named(self) -> dict[str, int]:
        """The counts that are not zero, by name."""
        return {name: count for name, count in zip(LEDGER, self.snapshot(), strict=True) if count}


def _counter(page: mmap.mmap, slot: int, start: int) -> Iterator[None]:
    pack = functools.partial(_SLOT.pack_into, page, LEDGER_AT + _SLOT.size * slot)
    return map(pack, itertools.count(start + 1))
