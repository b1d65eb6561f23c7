"""The errors that embedfit raises on purpose, each with its remedy.

EmbedfitError
├── UsageError            wrong options or configuration (exit code 2)
├── InputError            a file or folder that can't be used as it is
│   ├── ArtifactMissing   a stage's input is not there yet
│   └── SchemaMismatch    a run folder of another schema version
├── MissingDependency     an extra is not installed
├── ModelError            a model folder that is missing, incomplete or of another layout
├── GeneratorError        a language model or an embedding server could not be asked
│   ├── ProviderError     one call failed; says whether trying again can help
│   └── BudgetExceeded    going on would cost more than --max-cost
│       └── PaidInPart    the same, after a stage did what the money allowed
├── TrainingError         training stopped: NaN loss, no rows, no memory
├── CheckFailed           similar pairs are not above different ones
├── ServingError          the server can't start
└── DeployError           a cloud resource could not be made, found or deleted
"""

from __future__ import annotations

from collections.abc import Callable, Mapping


class EmbedfitError(Exception):
    """A failure with a cause and a cure.

    message: what is wrong, and where (a path, a line, a setting).
    remedy: the command or change that fixes it, in one line.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message

    def __reduce__(self) -> tuple[Callable[..., EmbedfitError], tuple[type[EmbedfitError], dict[str, object]]]:
        """Errors cross processes, whatever arguments their classes have."""
        return _rebuilt, (type(self), dict(self.__dict__))


def _rebuilt(kind: type[EmbedfitError], fields: Mapping[str, object]) -> EmbedfitError:
    error = kind.__new__(kind)
    error.__dict__.update(fields)
    return error


class UsageError(EmbedfitError):
    """Wrong options or configuration."""

    exit_code = 2


class InputError(EmbedfitError):
    """A file or folder that can't be used as it is."""


class ArtifactMissing(InputError):
    """A stage's input is not there yet."""


class SchemaMismatch(InputError):
    """A run folder of another schema version."""


class MissingDependency(EmbedfitError):
    """An optional package is not installed."""

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package}, which is not installed.",
            remedy=f"Run: pip install 'embedfit[{extra}]'",
        )


class ModelError(EmbedfitError):
    """A model folder that is missing, incomplete or of another layout."""


class GeneratorError(EmbedfitError):
    """A language model or an embedding server could not be asked."""


class ProviderError(GeneratorError):
    """One call to a provider failed.

    status: the HTTP status, or None where the connection itself failed.
    retryable: whether the same call may succeed later.
    """

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        status: int | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status
        self.retryable = retryable


class BudgetExceeded(GeneratorError):
    """Going on would cost more than the user allowed."""


class PaidInPart(BudgetExceeded):
    """--max-cost ended a stage early; its outputs are whole, and hold everything that was paid for."""


class TrainingError(EmbedfitError):
    """Training stopped."""


class CheckFailed(EmbedfitError):
    """The model does not put similar pairs above different ones. check.json holds the measurements."""


class ServingError(EmbedfitError):
    """The server can't start."""


class DeployError(EmbedfitError):
    """A cloud resource could not be made, found or deleted."""


def first_line(error: BaseException) -> str:
    """The first line of what another library's error says, at most 300 characters, or its type's name."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
