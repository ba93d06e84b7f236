"""The command line: `python -m tinygrad_ee559 demo`, `... train mnist` and `... reports`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rich.console import Console

from tinygrad_ee559 import demo, mnist


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: what stands after the program's name; those of this process if None.

    Returns:
        The exit status: 0 if all is well, 1 if something went wrong, said in one sentence on
        stderr. (Arguments that make no sense end the process with status 2, as argparse does it.)
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    listed = options.command == "reports" and options.number is None
    if listed and (options.quick or options.resume):
        parser.error("give the number of a report to run it")
    console = Console()
    try:
        if options.command == "demo":
            demo.run(options.out, options.epochs, options.seed, console)
        elif options.command == "reports":
            _run_reports(options, console)
        else:
            mnist.run(
                options.data,
                options.out,
                samples=options.samples,
                epochs=options.epochs,
                lr=options.lr,
                batch_size=options.batch_size,
                seed=options.seed,
                console=console,
            )
    except (OSError, FloatingPointError) as error:
        print(f"tinygrad_ee559: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "; --resume goes on from here" if options.command == "reports" else ""
        print(f"tinygrad_ee559: interrupted{hint}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tinygrad_ee559", description="See a define-by-run autograd engine at work."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser(
        "demo", help="differentiate an expression, draw its graph, train the disk classifier"
    )
    _add_run_options(command, out="build/demo", epochs=150)

    train = commands.add_parser("train", help="train a network on real data")
    datasets = train.add_subparsers(dest="dataset", required=True)
    command = datasets.add_parser("mnist", help="a network of 784-512-512-512-10 reads digits")
    _add_data_option(command)
    command.add_argument(
        "--samples",
        type=_samples,
        default=10_000,
        metavar="N|all",
        help="train on the first N of the 60,000 training images (default: 10000)",
    )
    command.add_argument(
        "--lr", type=_positive, default=0.05, help="learning rate at the start (default: 0.05)"
    )
    command.add_argument(
        "--batch-size", type=_count, default=100, metavar="N", help="images per step (default: 100)"
    )
    _add_run_options(command, out="build/mnist", epochs=8)

    command = commands.add_parser(
        "reports", help="list five published experiments, or reproduce one beside PyTorch"
    )
    command.add_argument(
        "number", nargs="?", type=int, choices=range(1, 6), help="of one; none: all are listed"
    )
    command.add_argument("--quick", action="store_true", help="a small version, in seconds")
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="for tables and figures (default: build/reports/NUMBER, or NUMBER-quick)",
    )
    command.add_argument(
        "--resume", action="store_true", help="go on with what an interrupted run left in --out"
    )
    _add_data_option(command)
    return parser


def _run_reports(options: argparse.Namespace, console: Console) -> None:
    """List the reports, or run one. They are examples: they lie beside the package in a checkout.

    Raises:
        OSError: this is no checkout, or a file is missing, damaged or cannot be written.
    """
    examples = Path(__file__).parents[1] / "examples"
    if not (examples / "reports").is_dir():
        raise FileNotFoundError(
            f"the reports belong to a checkout, and {examples / 'reports'} does not exist; clone "
            "the repository and run this there"
        )
    sys.path.insert(0, str(examples))
    reports = import_module("reports").REPORTS
    if options.number is None:
        for number, report in enumerate(reports, 1):
            console.out(f"{number}  {report.title}")
        return
    folder = options.out or Path(f"build/reports/{options.number}{'-quick' * options.quick}")
    report = reports[options.number - 1]
    report.run(folder, options.quick, options.resume, options.data, console)


def _add_data_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="holds MNIST's four original files; those that are missing are downloaded there "
        "(default: $TINYGRAD_EE559_DATA, or else a folder in the user's cache)",
    )


def _add_run_options(command: argparse.ArgumentParser, out: str, epochs: int) -> None:
    command.add_argument(
        "--out", type=Path, default=Path(out), metavar="DIR", help=f"for results (default: {out})"
    )
    command.add_argument(
        "--epochs", type=_count, default=epochs, metavar="N", help=f"default: {epochs}"
    )
    command.add_argument("--seed", type=_seed, default=0, help="of all random numbers (default: 0)")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(
            f"expected a whole number from 0 to 9223372036854775807, got {text!r}"
        )
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return number


def _samples(text: str) -> int:
    samples = mnist.TRAINING_IMAGES if text == "all" else _count(text)
    if samples > mnist.TRAINING_IMAGES:
        raise argparse.ArgumentTypeError(
            f"MNIST has {mnist.TRAINING_IMAGES} training images, got {text}"
        )
    return samples


if __name__ == "__main__":
    sys.exit(main())
