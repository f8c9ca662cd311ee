"""Entry point of `python -m benches`."""

import sys

from benches.driver import main

if __name__ == "__main__":
    sys.exit(main())
