"""Tasks of a package that need not be there, listed when the first of them is asked for."""

import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping

from tools import UserError

Identity = tuple[str, ...]


class PackageTasks(Mapping[str, Identity]):
    """The tasks of a package that may not be installed; names are found in any spelling.

    Case, underscores and hyphens make no difference: 'MsPacman' is 'ms_pacman'.

    Args:
        prefix: Of the suite, for messages.
        package: The package that has to be there.
        names: Lists its names for them; called once, and may import it.
        extra: Of ours that brings the package; '' if it is called like the suite.
    """

    def __init__(self, prefix: str, package: str, names: Callable[[], list[str]], extra: str = ""):
        self._prefix, self._package, self._names = prefix, package, names
        self._extra = extra or prefix
        self._found: dict[str, str] | None = None

    def __getitem__(self, name: str) -> Identity:
        """The task of that name.

        Raises:
            UserError: The package is not installed.
        """
        return (self._listed()[_plain(name)],)

    def __iter__(self) -> Iterator[str]:
        """The package's names; none where it is not installed."""
        try:
            return iter(self._listed().values())
        except UserError:
            return iter(())

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _listed(self) -> dict[str, str]:
        if self._found is None:
            if importlib.util.find_spec(self._package) is None:
                raise UserError(
                    f"{self._prefix}_… tasks need the package {self._package}: "
                    f"pip install -e '.[{self._extra}]' -c constraints.txt"
                )
            self._found = {_plain(name): name for name in self._names()}
        return self._found


def _plain(name: str) -> str:
    return re.sub(r"[_-]", "", name.lower())
