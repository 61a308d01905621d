"""Man pages and completions, from the command's own help.

python debian/manuals.py COMMAND MODULE:NAME ROOT
"""

import os
import sys
from importlib import import_module
from pathlib import Path

from click.shell_completion import get_completion_class
from click_man.core import write_man_pages

COMPLETIONS = {"bash": "bash-completion/completions/{}", "zsh": "zsh/vendor-completions/_{}"}


def main() -> None:
    """Writes them below ROOT/usr/share."""
    command, where, root = sys.argv[1:]
    module, _, name = where.partition(":")
    cli = getattr(import_module(module), name)
    share = Path(root, "usr/share")
    pages = share / "man/man1"
    pages.mkdir(parents=True)
    version = os.environ["VERSION"]
    write_man_pages(command, cli, version=version, target_dir=str(pages), date=os.environ.get("MAN_DATE"))
    for shell, place in COMPLETIONS.items():
        kind = get_completion_class(shell)
        assert kind is not None
        path = share / place.format(command)
        path.parent.mkdir(parents=True)
        path.write_text(kind(cli, {}, command, f"_{command.upper().replace('-', '_')}_COMPLETE").source())


if __name__ == "__main__":
    main()
