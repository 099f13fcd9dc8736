"""The command line of every program: groups of commands, found when they are asked for.

A group is a package whose `COMMANDS` names its commands; a command is a module with `SUMMARY` (its
line in the list), `add_arguments(parser)` and `run(options)`, which gives the exit code. Both are
found by dotted name, so that nothing is imported but what was asked for, and a group that is not
installed is not listed. What goes wrong is told here, in the same words by all of them.

Not here: what a command does, and how its settings are read.
"""

import argparse
import difflib
import importlib
import importlib.util
import keyword
import logging
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any, Final

from contract import VERSION
from contract.errors import EXIT_BAD_INPUT, EarshotError
from contract.printable import printable

EXIT_INTERRUPTED: Final = 130
"""As a shell gives it for a program that Ctrl-C has ended."""

SYSTEM_FOLDER: Final = Path("/etc/earshot")
"""Where the settings of a service are."""

_PROGRAM: Final = "earshot"
_DISTRIBUTION: Final = "earshot-fleet"
_LOG_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def run(module: str, words: Sequence[str] = (), arguments: Sequence[str] | None = None) -> int:
    """Find the command in a group, parse its options, run it, and give the exit code.

    A group's package has `SUMMARY`, and `COMMANDS`: names of modules in it (`import` is in
    `import_`), or a mapping from names to dotted names, of groups as well. A group, and any command
    whose word then counts more, may also have

    - `LOG_LEVEL` (default: warnings), and `QUIET`: loggers of which errors alone are shown;
    - `ENVIRONMENT`: variables that are set, where they are not, before a command is imported;
    - `REQUIREMENTS`: the file in requirements/ with what its commands import;
    - `INTERRUPTED`: what to say of Ctrl-C.

    Args:
        module: dotted name of the group's package, or of a single command.
        words: what a person types after `earshot` to come here, such as `["node"]`.
        arguments: what follows; None takes the process's own, and lets SIGTERM end it as Ctrl-C
            does: what is half done is taken away.

    Raises:
        SystemExit: help or the version was asked for, or the words cannot be understood.
    """
    if arguments is None:
        arguments = sys.argv[1:]
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    line = _Line(module, words, arguments)
    try:
        code = line.run()
        sys.stdout.flush()
    except EarshotError as error:
        # A file's name may hold a line break, and a node may have said anything.
        line.tell(printable(" ".join(str(error).split())))
        return EXIT_BAD_INPUT
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        requirements = line.word_of_innermost("REQUIREMENTS")
        if not missing or requirements is None or _is_installed(missing):
            raise
        line.tell(
            f"{missing} is not installed; install requirements/{requirements}.txt, or without a"
            f" checkout {_DISTRIBUTION}[{requirements}]"
        )
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        line.tell(line.word_of_innermost("INTERRUPTED") or "interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough (`... | head`); without this, Python says so when
        # it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def typed(command: str) -> str:
    """A command of earshot as a person types it who has started this process.

    Args:
        command: what follows the program's name, for example `node check --config node.toml`.
    """
    return f"{_program()} {command}"


def recorded(options: argparse.Namespace) -> str:
    """The command that was typed, for reports that others read: paths tell nothing of this machine.

    A path that is absolute or goes up is its last name alone; everything else stays as typed.
    """
    return shlex.join([_PROGRAM, *(_without_place(word) for word in options.typed)])


def add_settings_option(parser: argparse.ArgumentParser, name: str) -> None:
    """Let `--config` name a settings file.

    Args:
        parser: the command's.
        name: the file's usual name, such as `node.toml`.
    """
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"settings (TOML; default: ./{name}, else {SYSTEM_FOLDER}/{name}, if there)",
    )


def settings_file(named: Path | None, name: str) -> Path | None:
    """The file that was named, else `./NAME`, else `/etc/earshot/NAME`; None if there is none.

    Which one was taken without being named is told on standard error.
    """
    if named is not None:
        return named
    for path in (Path(name), SYSTEM_FOLDER / name):
        try:
            if path.is_file():
                print(f"{_PROGRAM}: settings from {path}", file=sys.stderr)
                return path
        except PermissionError:
            print(
                f"{_PROGRAM}: {path} cannot be looked for as this user: permission denied",
                file=sys.stderr,
            )
    return None


class _Line:
    """One command line: the words so far, the modules that they stand for, and what follows."""

    def __init__(self, module: str, words: Sequence[str], arguments: Sequence[str]) -> None:
        self._start = module
        self._words = list(words)
        self._modules: list[ModuleType] = []
        self._rest = list(arguments)
        self._verbose = False

    def run(self) -> int:
        """Go down to the command, and run it."""
        module = self._enter(self._start)
        while hasattr(module, "COMMANDS"):
            commands = _commands(module)
            self._take_options(module)
            if not self._rest:
                self._print_help(module)
                return 0
            word = self._rest.pop(0)
            if word not in commands:
                self._group_parser(module).error(_unknown_command(word, commands))
            self._words.append(word)
            module = self._enter(commands[word])
        parser = _Parser(prog=self._prog(), description=module.__doc__, formatter_class=_Paragraphs)
        parser.add_argument("--verbose", action="store_true", help="log what usually goes unsaid")
        module.add_arguments(parser)
        options = parser.parse_args(self._rest)
        options.verbose = options.verbose or self._verbose
        options.typed = (*self._words, *self._rest)
        level = self.word_of_innermost("LOG_LEVEL") or logging.WARNING
        logging.basicConfig(
            level=logging.DEBUG if options.verbose else level,
            format=_LOG_FORMAT,
            stream=sys.stderr,
        )
        for name in () if options.verbose else self.word_of_innermost("QUIET") or ():
            logging.getLogger(name).setLevel(logging.ERROR)
        return int(module.run(options))

    def tell(self, text: str) -> None:
        """Say it on standard error, in the name of the group."""
        print(f"{' '.join([_PROGRAM, *self._words[:1]])}: {text}", file=sys.stderr)

    def word_of_innermost(self, name: str) -> Any:
        """What the command says of itself, else its group; None if neither does."""
        values = (getattr(module, name, None) for module in reversed(self._modules))
        return next((value for value in values if value is not None), None)

    def _enter(self, name: str) -> ModuleType:
        package = name.partition(".")[0]
        if not _is_installed(package):
            raise EarshotError(f"{package} is not part of this installation")
        # A command that two groups list has the words of the one that it lies in.
        for dotted in (name.rpartition(".")[0], name):
            if not dotted or dotted in (module.__name__ for module in self._modules):
                continue
            self._modules.append(importlib.import_module(dotted))
            for variable, value in getattr(self._modules[-1], "ENVIRONMENT", {}).items():
                os.environ.setdefault(variable, value)
        return self._modules[-1]

    def _take_options(self, module: ModuleType) -> None:
        """What stands before the command's name."""
        while self._rest and self._rest[0].startswith("-"):
            option = self._rest.pop(0)
            if option in ("-h", "--help"):
                self._print_help(module)
                raise SystemExit(0)
            if option == "--version":
                print(f"{_PROGRAM} {VERSION}")
                raise SystemExit(0)
            if option == "--verbose":
                self._verbose = True
                continue
            parser = self._group_parser(module)
            parser.error(_unknown_option(option, parser))

    def _group_parser(self, module: ModuleType) -> "_Parser":
        """For help and errors; nothing is parsed with it."""
        parser = _Parser(
            prog=self._prog(),
            usage=f"{self._prog()} [-h] [--version] [--verbose] COMMAND ...",
            description=module.__doc__,
            formatter_class=_Paragraphs,
        )
        parser.add_argument("--version", action="store_true", help="print the version")
        parser.add_argument("--verbose", action="store_true", help="log what usually goes unsaid")
        return parser

    def _print_help(self, module: ModuleType) -> None:
        parser = self._group_parser(module)
        listed = parser.add_subparsers(title="commands", metavar="COMMAND")
        for name, dotted in _commands(module).items():
            if _is_installed(dotted.partition(".")[0]):
                listed.add_parser(name, help=importlib.import_module(dotted).SUMMARY)
        parser.print_help()

    def _prog(self) -> str:
        return " ".join([_program(), *self._words])


class _Paragraphs(argparse.HelpFormatter):
    """Help whose description keeps its paragraphs, each folded to the terminal's width."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(fill(part, width, indent) for part in text.strip().split("\n\n"))


class _Parser(argparse.ArgumentParser):
    """A parser that answers an unknown option with its own usage, and what may have been meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        if self._subparsers is None:
            # First of all: else a misspelt option that must be there is told as missing.
            for word in words[: words.index("--")] if "--" in words else words:
                name = word.partition("=")[0]
                if (
                    word.startswith("--")
                    and " " not in word
                    and not any(known.startswith(name) for known in self._option_string_actions)
                ):
                    self.error(_unknown_option(name, self))
        options, unknown = super().parse_known_args(words, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown


def _commands(group: ModuleType) -> Mapping[str, str]:
    """Dotted names by the names that a person types."""
    commands: Mapping[str, str] | Iterable[str] = group.COMMANDS
    if isinstance(commands, Mapping):
        return commands
    return {name: f"{group.__name__}.{_module_name(name)}" for name in commands}


def _module_name(command: str) -> str:
    name = command.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _unknown_command(word: str, commands: Mapping[str, str]) -> str:
    deeper = [
        f"{group} {word}"
        for group, dotted in commands.items()
        if _is_installed(dotted.partition(".")[0])
        and word in getattr(importlib.import_module(dotted), "COMMANDS", ())
    ]
    close = deeper or difflib.get_close_matches(word, commands, n=1)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(commands)}"
    return f"unknown command {word} ({hint})"


def _unknown_option(option: str, parser: argparse.ArgumentParser) -> str:
    close = difflib.get_close_matches(option, parser._option_string_actions, n=1)
    return f"unknown option {option}" + (f" (did you mean {close[0]}?)" if close else "")


def _program() -> str:
    """How this program is called where this process was started."""
    script = sys.argv[0]
    if Path(script).name == _PROGRAM and Path(script).exists():
        found = shutil.which(_PROGRAM)
        return _PROGRAM if found and Path(found).samefile(script) else _as_typed_here(script)
    # As a module, or by a service.
    if shutil.which(_PROGRAM):
        return _PROGRAM
    return f"{_as_typed_here(sys.orig_argv[0])} -m {_PROGRAM}"


def _as_typed_here(program: str) -> str:
    path = Path(program)
    try:
        here = Path.cwd()
    except OSError:  # it is gone, or closed to this user
        return shlex.quote(str(path))
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _without_place(word: str) -> str:
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if not equals:
        option, value = "", word
    names = [
        path.name if (path := PurePath(part)).is_absolute() or ".." in path.parts else part
        for part in value.split(",")
    ]
    return f"{option}{equals}{','.join(names)}"
