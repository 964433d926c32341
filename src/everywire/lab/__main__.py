"""`python -m everywire.lab`: the command of `everywire.lab.command`."""

from __future__ import annotations

import sys

from everywire.lab.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
