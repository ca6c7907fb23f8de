"""`python -m stemsplit` is `stemsplit`."""

import sys

from stemsplit.cli import main

if __name__ == "__main__":
    sys.exit(main())
