"""Figures seed by seed in one file: what is there is not measured again, and never taken for that of other options.

The file holds `options`, which decide the figures, and `by_seed` with `rows` made of it, here or in named parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import read_results, write_results
from l2l_ray.config import NO_RESULT, dump_without, load_config
from l2l_ray.config.differences import differences
from l2l_ray.errors import ConfigError, DataError

Figures = dict[str, Any]


def changed_settings(words: Sequence[str], more: Sequence[str]) -> Figures:
    """Return which settings some more words change, path -> value; those that no result depends on left out.

    Args:
        words: A benchmark's own, as `load_config` reads them.
        more: What the user adds.
    """
    first, second = (dump_without(load_config(list(given)), NO_RESULT) for given in (words, [*words, *more]))
    return {found.path: found.second for found in differences(first, second)}


class SeedFile:
    """A file of figures by seed, all made with the same options.

    Args:
        path: The file, which need not be there.
        options: What decides the figures, the seeds apart.
    Raises:
        ConfigError: The file holds figures of other options.
        DataError: It is damaged.
    """

    def __init__(self, path: Path, options: Figures) -> None:
        self.path, self.options = path, json.loads(json.dumps(options))  # as they come back from the file
        self._read()

    def complete(
        self,
        seeds: Sequence[int],
        measure: Callable[[int], Figures],
        summarize: Callable[[dict[str, Figures]], Figures],
        part: Sequence[str] = (),
    ) -> Iterator[tuple[int, Figures]]:
        """Measure the seeds that are missing; give each seed with its figures when the file has them.

        Args:
            seeds: Those asked for.
            measure: Gives the figures of a seed.
            summarize: Makes `rows` of `by_seed`.
            part: Where in the file these figures are, name by name; nothing = at the top.
        """
        for seed in seeds:
            found = self._part(self._read(), part)["by_seed"].get(str(seed))
            if found is None:
                found = measure(seed)
            content = self._read()  # anew: another process may have written seeds of its own meanwhile
            mine = self._part(content, part)
            mine["by_seed"].setdefault(str(seed), found)
            mine["rows"] = summarize(mine["by_seed"])
            write_results(self.path, content)
            yield seed, found

    def rows(self, part: Sequence[str] = ()) -> Figures:
        """Return the summary of all seeds in the file, or in a part of it."""
        return dict(self._part(self._read(), part)["rows"])

    def _read(self) -> Figures:
        content = read_results(self.path)
        if content and content.get("options") != self.options:
            got = f"options {json.dumps(content['options'])}" if "options" in content else "options it does not name"
            wanted = json.dumps(self.options)
            remedy = "" if "options" in content else f'; or, if you know that it was made so, add "options": {wanted}'
            raise ConfigError(
                f"{self.path} holds figures of {got}, and this command has {wanted}: give another --out{remedy}"
            )
        return content or {"options": self.options}

    def _part(self, content: Figures, part: Sequence[str]) -> Figures:
        mine: Any = content
        for name in part:
            mine = mine.setdefault(name, {}) if isinstance(mine, dict) else None
        if not isinstance(mine, dict) or not isinstance(mine.setdefault("by_seed", {}), dict):
            raise DataError(
                f"{self.path} is no file of figures by seed: expected an object 'by_seed'"
                f"{' in ' + '/'.join(part) if part else ''}; give another --out, or move the file away"
            )
        return mine
