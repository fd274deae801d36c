"""Prompts that are built when their call is due."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from evalshim.worker import fan_out


class Keeps:
    """As OlympiadBench (vlmeval 0.0.20), which makes a prompt of what it keeps on itself."""

    def build_prompt(self, line: int) -> int:
        self.line = line
        time.sleep(0.001)
        return self.line


def test_what_a_prompt_is_made_of_is_that_of_its_own_sample() -> None:
    def infer(model: Any, work_dir: str, name: str, dataset: Any) -> list[int]:
        due = [dataset.build_prompt(line) for line in range(100)]
        with ThreadPoolExecutor(8) as pool:
            return [*pool.map(lambda prompt: prompt.built(), due)]

    when_due: Any = fan_out._with_prompts_built_when_due  # the worker has no types

    assert when_due(infer)(object(), "", "m", Keeps()) == [*range(100)]
