"""Faults of a cluster. After each, the results are those of this process alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedfit.scale.ray import Ray
from tests.scale.work import Opened, square

pytestmark = pytest.mark.slow


def test_a_node_that_is_taken_away_loses_nothing(cluster: Any, tmp_path: Path) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    taking_away: list[threading.Thread] = []
    found = {}
    for number, result in Ray(cluster.address, 2).map(slowly, range(24), state=Opened(tmp_path)):
        found[number] = result
        if len(found) == 4:
            gone = threading.Thread(target=cluster.remove_node, args=(nodes[0],), kwargs={"allow_graceful": False})
            taking_away.append(gone)
            gone.start()
    taking_away[0].join()
    assert found == {number: number**2 for number in range(24)}
    begun = sum(path.stat().st_size for path in tmp_path.glob("begun-*"))
    assert 24 <= begun <= 26, "what was done is not done again"


def slowly(folder: Path, shard: int, tell: Callable[[float], None]) -> int:
    time.sleep(0.25)
    return square(folder, shard, tell)
