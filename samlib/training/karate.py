"""Zachary's karate club: who met whom outside the club, and whom each followed when it split.

W. W. Zachary, An information flow model for conflict and fission in small groups, Journal of
Anthropological Research 33 (1977). 34 members, 78 ties; member 0 is the instructor, "Mr Hi", and
member 33 the officer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MEMBERS = 34
# Of each member the ties to members with higher numbers.
_TIES = """
0: 1 2 3 4 5 6 7 8 10 11 12 13 17 19 21 31 / 1: 2 3 7 13 17 19 21 30 / 2: 3 7 8 9 13 27 28 32 /
3: 7 12 13 / 4: 6 10 / 5: 6 10 16 / 6: 16 / 8: 30 32 33 / 9: 33 / 13: 33 / 14: 32 33 / 15: 32 33 /
18: 32 33 / 19: 33 / 20: 32 33 / 22: 32 33 / 23: 25 27 29 32 33 / 24: 25 27 31 / 25: 31 /
26: 29 33 / 27: 33 / 28: 31 33 / 29: 32 33 / 30: 32 33 / 31: 32 33 / 32: 33
"""
_OFFICERS = (9, 14, 15, 18, 20, 22, *range(23, 34))


def adjacency() -> NDArray[np.float64]:
    """The symmetric matrix of ties, (34, 34), of zeros and ones."""
    a = np.zeros((MEMBERS, MEMBERS))
    for row in _TIES.split("/"):
        member, others = row.split(":")
        for other in others.split():
            a[int(member), int(other)] = a[int(other), int(member)] = 1
    return a


def factions() -> NDArray[np.int64]:
    """0 for those who followed the instructor, 1 for those who stayed with the officer, (34,)."""
    return np.isin(np.arange(MEMBERS), _OFFICERS).astype(np.int64)
