"""`ptq4dm`: the command line. One file a verb; every user error is one line on stderr and exit code 2."""

import argparse
import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Final, NoReturn

from ptq4dm.errors import PTQ4DMError

VERBS: Final = {
    "demo": "The whole job on the built-in model: quantize, draw, measure, and a page that shows it.",
    "quantize": "Quantize a pretrained diffusion model to INT8 and save the artifact.",
    "sample": "Draw pictures with a quantized model (or a float one) and save them as one sheet.",
    "evaluate": "Compare an artifact with its float model: the same noise, call by call and picture by picture.",
    "bench": "Time the float network in every engine here and the INT8 one, alternating in one run: ratios and spread.",
    "inspect": "Show what an artifact holds: layers, ranges, recipe, calibration.",
    "report": "Draw the report again from saved results.",
    "export": "Write an artifact's denoiser as standard QDQ ONNX, for other runtimes.",
    "convert": "Write a checkpoint of improved-diffusion, guided-diffusion or the DDIM code as a diffusers folder.",
    "study": "Ask the paper's questions of a model: which operations, calibration data, metric, bits, samplers.",
    "plan": "Choose which layers stay in float, for a number of layers or a fidelity, and write that as a recipe.",
    "zoo": "List the built-in models.",
}
"""Each verb, and what it does: said here too, so that the help need not import all of them, which takes seconds."""
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line; those of its verbs are made of the same class."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, point to the help, and exit with code 2."""
        sys.exit(refuse(f"{message} (see `{self.prog} --help`)"))


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The parser of all verbs, with the arguments of one of them, or of all.

    Only modules of verbs whose arguments are wanted are imported: libraries behind them take seconds.
    """
    parser = Parser(
        prog="ptq4dm", description="Make a pretrained diffusion model 8-bit without training, and prove it."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, summary in VERBS.items():
        own = verbs.add_parser(name, help=summary, description=summary)
        if verb in (name, None):
            module = import_module(f"ptq4dm.cli.{name}")
            module.add_arguments(own)
            own.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0 done, 2 a user error, 130 interrupted."""
    with noted_interrupts() as pressed:
        try:
            return run_verb(arguments)
        except KeyboardInterrupt:
            return interrupted()
        except Exception as error:
            if pressed:
                return interrupted()
            if isinstance(error, PTQ4DMError):
                return refuse(str(error))
            if isinstance(error, OSError):
                return refuse(system_error(error))
            raise


def run_verb(arguments: Sequence[str] | None) -> int:
    """Run one verb; 0, also where whoever reads standard output goes away."""
    words = sys.argv[1:] if arguments is None else arguments
    verb = words[0] if words else ""  # options, the help's, come behind it
    args = build_parser(verb).parse_args(words)
    quieten()
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
    return 0


@contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """Note every Ctrl-C: a library that is being imported may turn KeyboardInterrupt into an error of its own."""
    pressed: list[int] = []
    in_use = signal.getsignal(signal.SIGINT)
    if in_use is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield pressed  # a shell told this run to ignore it, or it is somebody else's matter
        return

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, in_use)


def interrupted() -> int:
    """Say that Ctrl-C ended it; the exit code."""
    print("ptq4dm: interrupted; nothing half-written was left behind", file=sys.stderr)
    return INTERRUPTED


def system_error(error: OSError) -> str:
    """What the operating system refused, and the mend."""
    if error.errno == errno.ENAMETOOLONG:
        return f"{error.filename!r} is too long for the name of a file or folder: give a shorter one"
    full = error.errno == errno.ENOSPC
    if error.filename is not None:
        mend = "free some space" if full else "name another, or change its permissions"
        return f"cannot use {str(error.filename)!r}: {error.strerror or error}: {mend}"
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
    if full:
        return "the disk is full, or where the output goes: free some space"
    return f"the system refused: {error}: see to it and try again"


def drop_output() -> None:
    """Let what is still to be written to standard output vanish: the interpreter would fail over it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def refuse(reason: str) -> int:
    """Say in one line on stderr why nothing was done; the exit code."""
    print(f"ptq4dm: error: {' '.join(reason.split())}", file=sys.stderr)
    return 2


def quieten() -> None:
    """Keep library chatter (tracing warnings, loading bars) off the user's terminal; PTQ4DM_DEBUG=1 shows it."""
    if os.environ.get("PTQ4DM_DEBUG"):
        return
    warnings.filterwarnings("ignore")
    if diffusers := sys.modules.get("diffusers"):  # else the verb has no use for it
        diffusers.utils.logging.set_verbosity_error()
        diffusers.utils.logging.disable_progress_bar()


if __name__ == "__main__":
    sys.exit(main())
