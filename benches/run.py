"""Entry point of `python benches/run.py`, from any directory: the same as `python -m benches` in the repository's root."""

import sys
from pathlib import Path

# A script's own directory leads sys.path, where `load`, `plot`, ... would be top-level modules; the root belongs there.
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benches.driver import main  # noqa: E402  (needs the line above)

if __name__ == "__main__":
    sys.exit(main())
