# SPDX-License-Identifier: Apache-2.0
"""Which item of one list is which of another, when neither carries an identity that lasts."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

__all__ = ["pair"]

T = TypeVar("T")


def pair(
    before: Sequence[T], after: Sequence[T], keys: Sequence[Callable[[T], Hashable]]
) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """Pair the items of two lists that agree in the first key, then those left that agree in the second, and so on.

    Items with equal keys pair in their order; each item is paired once at most. Linear in the lengths.

    Returns:
        The indices of the pairs, of what is left of ``before``, and of what is left of ``after``.
    """
    pairs: list[tuple[int, int]] = []
    old, new = list(range(len(before))), list(range(len(after)))
    for key in keys:
        waiting: dict[Hashable, deque[int]] = defaultdict(deque)
        for index in old:
            waiting[key(before[index])].append(index)
        unpaired = []
        taken: set[int] = set()
        for index in new:
            queue = waiting.get(key(after[index]))
            if queue:
                first = queue.popleft()
                taken.add(first)
                pairs.append((first, index))
            else:
                unpaired.append(index)
        old, new = [index for index in old if index not in taken], unpaired
    return pairs, old, new
