"""Print a seed that shows each mistake: `python -m simulator.mutations [WORD ...]`, with `tests` on the path.

Words choose mistakes by their names.
"""

from __future__ import annotations

import sys

from simulator.mutations import MUTATIONS, caught

MOST = 400
"""So many seeds are tried."""


def main() -> None:
    wanted = sys.argv[1:]
    for mutation in MUTATIONS:
        if not wanted or any(word in mutation.name for word in wanted):
            found = next((seed for seed in range(MOST) if caught(mutation, seed)), None)
            sys.stdout.write(f"{found!s:>5} {mutation.story:9} {mutation.name}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
