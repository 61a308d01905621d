"""``python -m cdc_indexer``."""

from cdc_indexer.cli import main

if __name__ == "__main__":
    main()
