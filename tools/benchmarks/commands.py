"""The command line of `tools/bench`."""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from tools.benchmarks import compare, profiling, report, scale
from tools.benchmarks.groups import GROUPS
from tools.benchmarks.lab import QUICK, Lab, Sizes, memory_filesystem
from tools.benchmarks.line import Result
from tools.benchmarks.peers import has_peers, install_peers, peer_versions
from tools.benchmarks.run import UnknownLineError, chosen_lines, run_groups

Command = Callable[[argparse.Namespace], int]


def main(description: str) -> int:
    """Parse the command line and do what it says; SIGTERM ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_common(parser, _table)
    parser.add_argument(
        "--peers", action="store_true", help="install what is needed for a qcow2 overlay"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="LINE", help="may hold * and ?")
    parser.add_argument("--rounds", type=int, help="of each line (default 3)")
    parser.add_argument("--list", action="store_true", help="list the lines and end")
    commands = parser.add_subparsers(metavar="COMMAND")
    command = _add_command(commands, "profile", "where the time of requests goes")
    _add_common(command, _profile)
    command.add_argument("--seconds", type=float, default=10, help="for each kind (default 10)")
    command = _add_command(commands, "scale", "cost as stores grow")
    _add_common(command, _scale)
    command.add_argument(
        "--blocks",
        type=float,
        nargs="+",
        default=[1, 10],
        metavar="MILLIONS",
        help="sizes of a store of sequential new data (default 1 10: 5 minutes; 100: half an hour)",
    )
    command.add_argument(
        "--fragmented",
        type=float,
        nargs="*",
        default=[1],
        metavar="MILLIONS",
        help="sizes of a store of blocks scattered over 1 TiB (default 1)",
    )
    command = _add_command(commands, "compare", "which lines got worse")
    command.set_defaults(run=_compare)
    command.add_argument("old", type=Path, metavar="OLD.json")
    command.add_argument("new", type=Path, metavar="NEW.json")
    arguments = parser.parse_args()
    chosen: Command = arguments.run
    try:
        return chosen(arguments)
    except UnknownLineError as error:
        parser.error(str(error))


def _add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    # Options that were given before the command keep their values.
    return commands.add_parser(name, help=text, argument_default=argparse.SUPPRESS)


def _add_common(parser: argparse.ArgumentParser, command: Command) -> None:
    parser.set_defaults(run=command)
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, only to see that it works"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--dir", type=Path, help="where to work (default: the temporary directory)")
    place.add_argument(
        "--memory",
        action="store_true",
        help="work on an ext4 in memory (root): leaves out the disk",
    )


@contextmanager
def _lab(arguments: argparse.Namespace) -> Iterator[Lab]:
    """Make the place where everything happens, and remove it."""
    with ExitStack() as stack:
        place = arguments.dir
        if arguments.memory:
            place = stack.enter_context(memory_filesystem())
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="thincow-bench.", dir=place))
        yield Lab(Path(name), QUICK if arguments.quick else Sizes(), is_quick=arguments.quick)


def _write(path: Path | None, text: str) -> None:
    if path is not None:
        path.write_text(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _table(arguments: argparse.Namespace) -> int:
    lines = chosen_lines(GROUPS, arguments.only)
    if arguments.list:
        for line in lines:
            print(f"{line.key:32} {line.title}")
        return 0
    if arguments.peers:
        install_peers()
    with _lab(arguments) as lab:
        lab.peers = has_peers() and (arguments.peers or not arguments.quick)
        if arguments.rounds:
            lab.sizes = replace(lab.sizes, rounds=arguments.rounds)
        machine = lab.machine() | (peer_versions() if lab.peers else {})
        lab.ready_memory()
        results: list[Result] = []
        try:
            for result in run_groups(lab, GROUPS, lines, _say):
                results.append(result)  # noqa: PERF402 - what there is must survive an interrupt
        except KeyboardInterrupt:
            lab.failures.append("interrupted: lines are missing")
    notes = [*lab.notes, *lab.failures]
    if arguments.json:
        print(json.dumps(report.to_json(machine, results, notes), indent=1))
    else:
        report.print_table(machine, results, notes)
    _write(arguments.markdown, report.markdown(results))
    return 1 if lab.failures else 0


def _scale(arguments: argparse.Namespace) -> int:
    share = 0.002 if arguments.quick else 1.0
    kinds = (("sequential", arguments.blocks), ("scattered", arguments.fragmented))
    stages: list[scale.Stage] = []
    is_whole = False
    with _lab(arguments) as lab:
        machine = lab.machine()
        lab.ready_memory()
        try:
            for kind, millions in kinds:
                sizes = [int(number * share * scale.MILLION) for number in millions]
                for stage in scale.measure(lab, kind, sizes, _say):
                    stages.append(stage)
                    _say(scale.markdown([stage]).splitlines()[-1])
            is_whole = True
        except KeyboardInterrupt:
            _say("interrupted: sizes are missing")
    if arguments.json:
        print(json.dumps({"machine": machine, "stages": scale.to_json(stages)}, indent=1))
    else:
        scale.print_table(stages)
    _write(arguments.markdown, scale.markdown(stages))
    return 0 if is_whole else 1


def _compare(arguments: argparse.Namespace) -> int:
    old = report.from_json(json.loads(arguments.old.read_text()))
    new = report.from_json(json.loads(arguments.new.read_text()))
    comparisons = compare.compare(old, new)
    print(compare.as_text(comparisons), end="")
    return 1 if any(found.is_worse for found in comparisons) else 0


def _profile(arguments: argparse.Namespace) -> int:
    with _lab(arguments) as lab:
        machine = lab.machine()
        lab.ready_memory()
        seconds = 1.0 if arguments.quick else arguments.seconds
        profiles = list(profiling.profile(lab, seconds, _say))
    if arguments.json:
        print(json.dumps({"machine": machine, "profiles": profiling.to_json(profiles)}, indent=1))
    else:
        print(profiling.markdown(profiles), end="")
    _write(arguments.markdown, profiling.markdown(profiles))
    return 0
