"""Whose turn it is in a claim. Most claims find all they want among those of what fell due first and last.

Where there is more, a lane or credential could hide between a backlog's two ends for as long as that has no room: so
claims also go round all of them, due or not, some in each.
"""

from collections.abc import Iterable

BY_TURN, BY_TIME = "turn", "time"  # how a lane or a credential was found; each way goes on behind its own last one
DUE_ROWS = 256  # of what fell due first, and as many of what fell due last
CREDENTIALS_PER_CLAIM = 256  # of all, looked at in turn


def behind(last: int, nums: Iterable[int]) -> list[int]:
    """In the order of the numbers, beginning behind the last one."""
    return sorted(nums, key=lambda num: (num <= last, num))
