"""The command `grade`: a person grades search results in a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embedfit.display.terminal import say
from embedfit.progress import reporter_for
from embedfit.runtime import Runtime


def grade(
    run_folder: Annotated[Path, typer.Option("--run", help="The run folder.")],
    questions: Annotated[int, typer.Option(min=1, help="Questions that are enough; you may go on.")] = 30,
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="Port; 0 takes a free one.")] = 0,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Grade what the candidate retrievers find for questions that people asked, in a page on this machine.

    Keys 0 to 3, `u` takes the last one back, every grade is saved at once. The gate then chooses the retriever by your
    grades, or corrects a judge with them.
    """
    from embedfit.commands.grading import grade as run_grade  # torch, starlette

    def opened(address: str) -> None:
        say(f"Open {address}\nEnd with Ctrl-C: every grade is saved as it is given.")
        if show:
            import webbrowser  # only where it is asked for

            webbrowser.open(address)

    runtime = Runtime(report=reporter_for(sys.stderr))
    session = run_grade(run_folder, runtime, goal=questions, port=port, opened=opened)
    say(f"{session.whole:,} questions are graded whole. Next: embedfit choose --run {run_folder}")
