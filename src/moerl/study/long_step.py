"""Progress of a long step: a bar in a terminal, a plain line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

LOG_SECONDS = 30.0
"""Between two lines in a log; a step shorter than this says nothing there."""

_Item = TypeVar("_Item")


def long_step(items: Sequence[_Item], what: str) -> Iterator[_Item]:
    """Yield `items`, showing on standard error how many of them are done.

    Args:
        items: Each takes part of the time.
        what: What is counted, such as "curves aggregated".
    """
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, leave=False)
        return
    said = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - said >= LOG_SECONDS:
            said = time.monotonic()
            log.info("%s: %d of %d", what, done, len(items))
        yield item
