"""What `--help` and a misused command say, in the reader's language.

The texts stand with the commands, in English, as everywhere else; click's own few words are here.
"""

from __future__ import annotations

import re

import click

from cdc_indexer.cli.language import say

__all__ = ["SpokenCommand", "SpokenGroup", "misuse"]

#: Click's own words. Its catalogue would have to be compiled, and be found by the locale.
_OWN = ("Usage:", "Options:", "Commands:", "Show this message and exit.", "[default: {}]")


class SpokenCommand(click.Command):
    """A command whose help is in the reader's language."""

    def get_help(self, ctx: click.Context) -> str:
        _translate(self)
        return _own_words(super().get_help(ctx))


class SpokenGroup(click.Group):
    """The same for a group, and for what is made with its decorators."""

    command_class = SpokenCommand
    group_class = type

    def get_help(self, ctx: click.Context) -> str:
        _translate(self)
        for command in self.commands.values():
            _translate(command)
        return _own_words(super().get_help(ctx))


def _translate(command: click.Command) -> None:
    """In place: a process shows help once."""
    if command.help:
        command.help = "\n\n".join(say(" ".join(part.split())) for part in command.help.split("\n\n"))
    for option in command.params:
        if isinstance(option, click.Option) and option.help:
            option.help = say(option.help)


def _own_words(text: str) -> str:
    for words in _OWN:
        before, _, after = words.partition("{}")
        said_before, _, said_after = say(words).partition("{}")
        if after:
            text = re.sub(
                rf"{re.escape(before)}(.*?){re.escape(after)}", rf"{said_before}\1{said_after}", text
            )
        else:
            text = text.replace(before, said_before)
    return text


def misuse(error: click.UsageError) -> str:
    """How the command is used, and what is wrong with what was typed; a group without a command shows its help."""
    context = error.ctx
    if context is None:
        return f"{say('Error:')} {say(error.format_message())}"
    # Since click 8.2; before, it shows its help by itself.
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        return context.get_help()
    called = context.command_path
    return "\n".join(
        (
            _own_words(context.get_usage()),
            say(f"`{called} --help` says more."),
            "",
            f"{say('Error:')} {say(error.format_message())}",
        )
    )
