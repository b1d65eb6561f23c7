"""The command line as a whole: its commands, and how it ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from embedfit import __version__
from embedfit.cli import assess, data, deploy, index, models, path, serve, upkeep
from embedfit.display import terminal
from embedfit.display.terminal import say, shown
from embedfit.errors import EmbedfitError

INTERRUPTED = 130

app = typer.Typer(
    name="embedfit",
    help="Documents in, a retrieval model that is provably better on them out, with nobody labelling anything.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
#: The commands in the order of `embedfit --help`. A command has its function's name, with - for _.
COMMANDS: tuple[Callable[..., None], ...] = (
    path.run,
    path.ingest,
    path.generate,
    *path.STAGES,
    path.choose,
    path.status,
    path.demo,
    path.grade,
    assess.assess,
    assess.adapt,
    index.index,
    index.search,
    serve.serve,
    serve.export,
    upkeep.forget,
    models.benchmark,
    models.compare,
    models.encode,
    models.merge_models,
    models.push,
    assess.diagnose,
    upkeep.doctor,
    upkeep.drift,
    data.sample,
    data.convert,
)
for _command in COMMANDS:
    app.command()(_command)
app.add_typer(upkeep.ledger_app, name="ledger")
app.add_typer(upkeep.cache_app, name="cache")
app.add_typer(deploy.app, name="deploy")


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Documents in, a retrieval model that is provably better on them out."""
    if show:
        say(f"embedfit {__version__}")
        raise typer.Exit


class _Signals:
    """Makes Ctrl-C and a termination signal stop the work by KeyboardInterrupt, so that finished work is kept."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> _Signals:
        self._previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        self.received = True
        raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Errors become one message with its remedy, and an exit code."""
    terminal.prepare()
    with _Signals() as signals:
        try:
            try:
                app(args=arguments, prog_name="embedfit", standalone_mode=True)
            finally:
                terminal.flush()
        except EmbedfitError as error:
            terminal.console(stderr=True).print(f"[red]Error:[/] {shown(str(error))}", highlight=False, soft_wrap=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:
            # The reader of our output is gone (| head), so no message can reach it.
            terminal.drop_output()
            sys.exit(1)
        except SystemExit:
            if not signals.received:
                raise
            terminal.write_line(sys.stderr, "Interrupted. The same command goes on where it was.")
            sys.exit(INTERRUPTED)
