"""``python -m extras.central``: the same as the command ``central-index``, from a checkout, installed or not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from central_index.cli import main

if __name__ == "__main__":
    main()
