"""``python -m central_index``."""

from central_index.cli import main

if __name__ == "__main__":
    main(prog_name="central-index")
