"""Performs cases and writes their outcomes into one JSON file, case by case."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from fedsim.experiments.golden import digest
from fedsim.experiments.golden.case import Case
from fedsim.experiments.golden.checkout import describe
from fedsim.experiments.golden.process import Performer

FORMAT = 1


def load(file: Path) -> dict[str, Any]:
    """Return a recording.

    Raises:
        ValueError: The file is missing, or is no recording.
    """
    try:
        tree = json.loads(file.read_text())
    except OSError as error:
        raise ValueError(f"{str(file)!r}: {error.strerror}; a recording is needed") from None
    except ValueError:
        raise ValueError(f"{str(file)!r}: is not JSON; a recording is needed") from None
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise ValueError(f"{str(file)!r}: is no recording of format {FORMAT}")
    return tree


class Recording:
    """A recording in progress; cases in its file from the same code are kept.

    Args:
        file: Its file, written after each case.
        pythonpath: Where the code is imported from; None: by the environment.
    """

    def __init__(self, file: Path, pythonpath: Path | None = None) -> None:
        self._file, self._pythonpath = file, pythonpath
        self._lock = threading.Lock()
        self._tree: dict[str, Any] = {}
        self._done = 0

    def make(self, cases: Sequence[Case], jobs: int) -> dict[str, Any]:
        """Perform the cases that are not in the file yet, `jobs` at a time, and return the recording.

        Raises:
            ValueError: There is a file that is no recording.
            RuntimeError: fedsim can't be imported.
        """
        with tempfile.TemporaryDirectory(prefix="fedsim-golden-") as scratch:
            self._begin(Path(scratch))
            kept: Mapping[str, Any] = self._tree["cases"]
            queue: SimpleQueue[Case] = SimpleQueue()
            todo = [case for case in cases if kept.get(case.name, {}).get("case-sha256") != case.sha256]
            for case in todo:
                queue.put(case)
            _say(f"{len(cases)} cases, {len(cases) - len(todo)} of them recorded before")
            failed: list[BaseException] = []
            threads = [
                threading.Thread(target=self._work, args=(queue, Path(scratch) / str(job), len(todo), failed))
                for job in range(min(jobs, len(todo)))
            ]
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    thread.join()
            except KeyboardInterrupt:
                _drain(queue)  # current cases are finished
                raise
            if failed:
                raise failed[0]
        # In the order of the matrix, not of completion.
        names = {case.name: None for case in cases} | dict.fromkeys(self._tree["cases"])
        self._tree["cases"] = {name: self._tree["cases"][name] for name in names}
        self._write()
        return self._tree

    def _begin(self, scratch: Path) -> None:
        """Ask a performer for its code, and keep cases recorded from it."""
        with Performer(scratch, self._pythonpath) as performer:
            performer.start()
            code = describe(Path(performer.code))
        self._tree = {
            "format": FORMAT,
            "code": code,
            "host": {"machine": platform.machine(), "python": platform.python_version()},
            "cases": {},
        }
        if self._file.exists():
            before = load(self._file)
            if code["commit"] is not None and before["code"] == code:
                self._tree["cases"] = before["cases"]
        if code["changed"]:
            _say(f"changed since {code['commit']}: {', '.join(code['changed'])}")

    def _work(self, queue: SimpleQueue[Case], scratch: Path, count: int, failed: list[BaseException]) -> None:
        """Perform cases of the queue until it is empty; an error of the performer ends all workers."""
        try:
            scratch.mkdir()
            with Performer(scratch, self._pythonpath) as performer:
                while not failed:
                    case = queue.get_nowait()
                    started = time.perf_counter()
                    found = perform(case, performer, scratch / "case")
                    done = self._note(case, found)
                    _say(f"{done}/{count} {case.name}: {time.perf_counter() - started:.1f} s")
        except Empty:
            pass
        except BaseException as error:
            failed.append(error)

    def _note(self, case: Case, found: Mapping[str, Any]) -> int:
        """Write a case's outcome, and return the number of performed cases."""
        with self._lock:
            self._tree["cases"][case.name] = {"case-sha256": case.sha256, **digest.record(found)}
            self._write()
            self._done += 1
            return self._done

    def _write(self) -> None:
        draft = self._file.with_name(f".{self._file.name}.draft")
        draft.write_text(json.dumps(self._tree, indent=1) + "\n")
        draft.replace(self._file)


def perform(case: Case, performer: Performer, folder: Path) -> dict[str, Any]:
    """Perform a case in a folder, which must not exist and is removed, and return its parts."""
    folder.mkdir()
    try:
        for name, content in case.files.items():
            (folder / name).write_bytes(content)
        answers = [performer.perform(step, folder) for step in case.steps]
        return digest.parts(case, folder, performer.code, answers)
    finally:
        shutil.rmtree(folder)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _drain(queue: SimpleQueue[Case]) -> None:
    while not queue.empty():
        queue.get()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
