"""``python -m tests.bench NAME [ARGUMENTS]``: one measurement; without a name, all of them, one after the other.

Each is a module of this package with ``main(argv) -> int``; names that begin with an underscore are helpers.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import tests.bench


def names() -> list[str]:
    """The measurements there are."""
    return sorted(m.name for m in pkgutil.iter_modules(tests.bench.__path__) if not m.name.startswith("_"))


def main(argv: list[str]) -> int:
    known = names()
    if argv and argv[0] not in known:
        print(f"no bench {argv[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    worst = 0
    for name in argv[:1] or known:
        print(f"== {name}")
        worst = max(worst, importlib.import_module(f"tests.bench.{name}").main(argv[1:]))
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
