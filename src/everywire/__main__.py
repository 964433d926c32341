"""`python -m everywire`: the same command line as the `everywire` script."""

import sys

from everywire.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
