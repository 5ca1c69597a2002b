"""What every benchmark needs: sides measured in turn, medians, rows of the table.

Nothing here imports more than the standard library: the worker of another environment uses it too.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "CREWAI_TESTING": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "OTEL_SDK_DISABLED": "true",
}
# What is set for the user's own crewAI, DBOS and provider must not reach a measurement.
_DROPPED = ("ALL_PROXY", "CREWAI", "DBOS", "HTTP_PROXY", "HTTPS_PROXY", "OPENAI", "OTEL", "XDG_")


@dataclass(frozen=True)
class Spread:
    """Several figures as one, with how far they lie apart."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        """The median, the smallest and the largest of `figures`."""
        return cls(statistics.median(figures), min(figures), max(figures), len(figures))


@dataclass(frozen=True)
class Row:
    """One side of one comparison.

    Attributes:
        benchmark: Which of the benchmarks.
        case: What was compared.
        side: Whose figure this is.
        unit: Of `figure`.
        figure: What was measured.
        against: The side that `ratio` is to; None on that side's own row.
        ratio: Each figure divided by the other side's of the same round.
        at_most: The goal of the ratio, if it has one.
        note: What one has to know to read the figure.
    """

    benchmark: str
    case: str
    side: str
    unit: str
    figure: Spread
    against: str | None = None
    ratio: Spread | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met by the median; None without a goal."""
        if self.at_most is None or self.ratio is None:
            return None
        return self.ratio.median <= self.at_most

    def as_json(self) -> dict[str, Any]:
        """This row as plain data, with `met`."""
        return {**asdict(self), "met": self.met}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Row:
        """The row that `as_json` was called on."""
        given = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        given["figure"] = Spread(**given["figure"])
        given["ratio"] = Spread(**given["ratio"]) if given["ratio"] else None
        return cls(**given)


Samples = dict[str, list[float]]


def interleaved(sides: Mapping[str, Callable[[], float]], rounds: int) -> Samples:
    """The figure that each side returns, `rounds` times, one after the other in every round.

    Every second round goes backwards, so that none is always the one after another.
    """
    samples: Samples = {side: [] for side in sides}
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for side in order:
            samples[side].append(sides[side]())
    return samples


def compared(
    benchmark: str,
    case: str,
    unit: str,
    samples: Mapping[str, Sequence[float]],
    *,
    at_most: Mapping[str, float] | None = None,
    notes: Mapping[str, str] | None = None,
) -> list[Row]:
    """One row for each side; the first side is the one that the others are held against."""
    reference = next(iter(samples))
    rows = []
    for side, figures in samples.items():
        pairs = zip(figures, samples[reference], strict=True)
        is_reference = side == reference
        rows.append(
            Row(
                benchmark=benchmark,
                case=case,
                side=side,
                unit=unit,
                figure=Spread.of(figures),
                against=None if is_reference else reference,
                ratio=None if is_reference else Spread.of([mine / its for mine, its in pairs]),
                at_most=(at_most or {}).get(side),
                note=(notes or {}).get(side, ""),
            )
        )
    return rows


def timed(work: Callable[[], Any]) -> float:
    """The seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# Processes -----------------------------------------------------------------------------


def environment(home: Path, **more: str) -> dict[str, str]:
    """For a process of the benchmarks that has `home` to itself."""
    kept = {
        name: value for name, value in os.environ.items() if not name.upper().startswith(_DROPPED)
    }
    return {**kept, **QUIET, "HOME": str(home), "PYTHONPATH": str(ROOT), **more}


class Worker:
    """A process that does one thing at a time, as it is asked.

    Args:
        module: Runs as ``python -m module arguments`` and calls `serve`.
        arguments: Its command line.
        home: Its home and working directory.
        python: Another environment's interpreter, perhaps.
        env: Variables beside the quiet ones.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        home: Path,
        python: str | Path = sys.executable,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._log = home / f"{module}.{'.'.join(arguments)}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=home,
                env=environment(home, **(env or {})),
                text=True,
            )
        self.pid = self._process.pid

    def read(self) -> Any:
        """What it says next.

        Raises:
            RuntimeError: It ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise RuntimeError(f"{self._log.stem} ended with exit code {code}\n{tail}")
        return json.loads(line)

    def ask(self, what: str, **given: Any) -> Any:
        """What it answers to `what`."""
        self.tell(what, **given)
        return self.read()

    def tell(self, what: str, **given: Any) -> None:
        """As `ask`, without waiting for an answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([what, given]) + "\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL: nothing is flushed."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # What was not read any more is not written either.
        self._process.stdin.detach()
        self._process.stdout.close()


def saying() -> Callable[[Any], None]:
    """What a worker talks to its parent with; all else that it prints goes to its log."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(value: Any) -> None:
        out.write(json.dumps(value) + "\n")

    return say


def serve(say: Callable[[Any], None], answers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer what the parent asks until it goes away."""
    for line in sys.stdin:
        what, given = json.loads(line)
        say(answers[what](**given))
