"""The ledger: counters that survive a SIGKILL, in a page of mapped memory.

A count is one C call: `next` of a `map` that takes the next number of an `itertools.count` and stores it in the page.
No bytecode runs in between, so under the GIL neither a thread nor a signal handler can come between the two, and the
page never holds an older number than the counter.
"""

import itertools
import mmap
import operator
import sys
from collections.abc import Callable
from itertools import repeat
from typing import Self

from .errors import JournalError, meant_for_caller
from .records import HEAD_BYTES, LEDGER, LEDGER_AT, decode_ledger


class Ledger:
    """One producer's counters. `ledger["attempted"]()` counts one attempt; ValueError once it is closed."""

    def __init__(self, page: mmap.mmap, *, carried: "Ledger | None" = None) -> None:
        """`carried` is what was counted before there was a page on disk; it is taken over."""
        self._page = page
        self._carried = carried
        self._seed = carried.snapshot() if carried else (0,) * len(LEDGER)
        if sys.byteorder != "little":  # the format is, and a view of the page is the machine's
            raise JournalError("spool_unavailable", "skillmeter needs a little-endian machine")
        self._last: tuple[int, ...] = ()
        self._slots = memoryview(page).cast("Q")[LEDGER_AT // 8 : LEDGER_AT // 8 + len(LEDGER)]
        for slot, count in enumerate(self._seed):
            self._slots[slot] = count
        self._counters = {name: _counter(self._slots, slot, self._seed[slot]) for slot, name in enumerate(LEDGER)}

    @classmethod
    def in_memory(cls) -> Self:
        """A ledger for as long as there is no journal."""
        return cls(mmap.mmap(-1, HEAD_BYTES))

    def __getitem__(self, name: str) -> Callable[[], None]:
        """The counter of that name: a call counts one."""
        return self._counters[name]

    def snapshot(self) -> tuple[int, ...]:
        """The counts, in the order of records.LEDGER."""
        try:
            counts = decode_ledger(self._page)
        except ValueError as error:  # closed
            if meant_for_caller(error):
                raise
            counts = self._last
        if self._carried is None:
            return counts
        # A thread may have been counting in the carried ledger while it was taken over.
        late = zip(counts, self._carried.snapshot(), self._seed, strict=True)
        return tuple(count + now - then for count, now, then in late)

    def take_over(self) -> None:
        """Move to this page what was counted in the carried ledger since it was handed over: by a signal handler, say,
        that came while the page was made. One caller at a time."""
        if self._carried is None:
            return
        before, self._seed = self._seed, self._carried.snapshot()  # first, so that no snapshot counts it twice
        for name, now, then in zip(LEDGER, self._seed, before, strict=True):
            for _ in range(now - then):
                self._counters[name]()

    def close(self) -> None:
        """Let go of the page, so that it can be unmapped; what was counted can still be read. Idempotent."""
        try:
            self._last = decode_ledger(self._page)
        except ValueError as error:  # closed before
            if meant_for_caller(error):
                raise
        self._slots.release()

    def named(self) -> dict[str, int]:
        """The counts that are not zero, by name."""
        return {name: count for name, count in zip(LEDGER, self.snapshot(), strict=True) if count}


def _counter(slots: "memoryview[int]", slot: int, start: int) -> Callable[[], None]:
    numbers = itertools.count(start + 1)
    return map(operator.setitem, repeat(slots), repeat(slot), numbers).__next__  # type: ignore[arg-type]
