"""`fedsim.sweep` runs experiments with varied settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from fedsim.errors import Interrupted, Refused
from fedsim.experiment import Experiment
from fedsim.interruption import asked, interruptible
from fedsim.references import see_folders
from fedsim.sweeps.plan import Arm, Plan, is_sweep_file, read_sweep_file
from fedsim.sweeps.points import Grid, Search, grid_of, size_of
from fedsim.sweeps.progress import SilentSweep, SweepProgress
from fedsim.sweeps.pruning import Pruning
from fedsim.sweeps.schedule import Part, Schedule
from fedsim.sweeps.state import LOG, State, Sweep, SweepDirectory
from fedsim.tables import without_unset
from fedsim.threads import cores
from fedsim.tracking import Tracker, packed

MOST = 200  # runs of a sweep without confirmation
ENGINES = ("sequential", "ray")


def sweep(
    *configs: str | Path | Experiment,
    grid: Mapping[str, Sequence[Any]] | None = None,
    overrides: Iterable[str] = (),
    seeds: int | None = None,
    search: int | None = None,
    ranges: Iterable[str] = (),
    prune: Pruning | None = None,
    out: str | Path | None = None,
    workers: int = 0,
    engine: str = "sequential",
    address: str = "",
    most: int = MOST,
    retry_failed: bool = False,
    progress: SweepProgress | None = None,
    trackers: Iterable[Tracker] = (),
) -> Sweep:
    """Run every combination of experiments, settings and seeds in parallel; the same call resumes a sweep.

    Args:
        configs: Experiments, or files of experiments, each an arm; or one sweep file, which names arms itself.
        grid: Values by key, in all arms.
        overrides: `"section.key=value"`, for all runs.
        seeds: Runs of each point, with the experiment's seed and those after it; unset: the sweep file's, or 1.
        search: Number of points drawn from `ranges`; each is combined with each point of the grid.
        ranges: `"key=low:high"`, or `"key=low:high:log"` for log-uniform values.
        prune: Stop settings early that score worse than others of the same privacy; unset: the sweep file's, or none.
        out: The sweep directory; unset: `runs/<name>` under the current folder.
        workers: Runs at the same time; 0: one for each core (of `ray`: one).
        engine: `sequential`: one process for each run; `ray`: a Ray cluster for its clients.
        address: Of the cluster.
        most: More runs than this are refused.
        retry_failed: Retry failed runs.
        progress: Called with each run.
        trackers: Each run calls its own copies, in its worker process; for them, a pruned run ends as interrupted.

    Returns:
        The sweep; some of its runs may have failed: `Sweep.failures`.

    Raises:
        Refused: An experiment or the pruning is invalid, the grid is empty or too large, a tracker can't be pickled,
            or the directory holds something else; nothing was run.
        Interrupted: SIGINT, SIGTERM or SIGHUP came, in the main thread; the same call, or `resume_sweep`, resumes.
        RunFailed: Workers can't be started.
    """
    searched = Search.of(search, ranges)
    plan = make_plan(configs, grid_of(grid or {}, "grid"), list(overrides), seeds, searched, most, prune)
    return play_plan(plan, out, workers, engine, address, retry_failed, progress, trackers)


def play_plan(
    plan: Plan,
    out: str | Path | None = None,
    workers: int = 0,
    engine: str = "sequential",
    address: str = "",
    retry_failed: bool = False,
    progress: SweepProgress | None = None,
    trackers: Iterable[Tracker] = (),
) -> Sweep:
    """Run a plan, or the rest of it in its directory; arguments, result and errors as `sweep`."""
    path = Path(out).absolute() if out is not None else Path("runs").absolute() / plan.name
    opening = partial(SweepDirectory.create, path, plan)
    return _play(opening, workers, engine, address, retry_failed, progress, trackers)


def resume_sweep(
    path: str | Path,
    *,
    workers: int = 0,
    engine: str = "sequential",
    address: str = "",
    retry_failed: bool = False,
    progress: SweepProgress | None = None,
    trackers: Iterable[Tracker] = (),
) -> Sweep:
    """Resume a sweep that was killed or interrupted; arguments, result and errors as `sweep`.

    Completed runs are kept, others continue after their last whole round, and all end with the same bits as without
    the interruption.
    """
    opening = partial(SweepDirectory.open, Path(path).absolute())
    return _play(opening, workers, engine, address, retry_failed, progress, trackers)


def make_plan(
    configs: Sequence[str | Path | Experiment],
    grid: Grid,
    overrides: Sequence[str],
    seeds: int | None,
    search: Search | None = None,
    most: int = MOST,
    prune: Pruning | None = None,
) -> Plan:
    """Plan a sweep of at most `most` runs, with every experiment checked; raises `Refused`."""
    paths = [Path(config) for config in configs if not isinstance(config, Experiment)]
    sweep_files = [path for path in paths if is_sweep_file(path)]
    if not sweep_files:
        arms = [_arm_of(config) for config in configs]
        name, planned, said = "-".join(arm.name for arm in arms)[:100] or "sweep", 1, None
    elif len(configs) > 1:
        raise Refused(
            f"sweep file {str(sweep_files[0])!r}: names its arms itself, so it must be the only file"
        )
    else:
        name, planned, said, arms = read_sweep_file(sweep_files[0])
    widened = [arm.with_more(overrides, grid) for arm in arms]
    each = planned if seeds is None else seeds
    runs = each * sum(size_of(arm.grid) for arm in widened) * (1 if search is None else search.count)
    if runs > most:
        raise Refused(f"{runs} runs: more than {most}; --yes (in Python, most=...) allows them")
    return Plan.of(name, each, widened, search, prune or said)


def _arm_of(config: str | Path | Experiment) -> Arm:
    if not isinstance(config, Experiment):
        return Arm.read(Path(config))
    said = without_unset(config.model_dump(by_alias=True, exclude_unset=True))
    return Arm(config.name, tomli_w.dumps(said), str(Path.cwd()))


def _check_engine(engine: str, workers: int, address: str) -> None:
    """Refuse an engine without sweeps; otherwise as `check_engine`."""
    if engine not in ENGINES:
        raise Refused(f"engine = {engine!r}: can't play runs side by side; allowed: {', '.join(ENGINES)}")
    from fedsim.engines import check_engine  # loads Flower

    check_engine(engine, workers, address)


def _play(
    opening: Callable[[], SweepDirectory],
    workers: int,
    engine: str,
    address: str,
    retry_failed: bool,
    progress: SweepProgress | None,
    trackers: Iterable[Tracker],
) -> Sweep:
    """Run the remaining runs of a directory, which is opened once the other arguments are checked."""
    _check_engine(engine, workers, address)
    copies = packed(trackers)
    from fedsim.sweeps.pool import Ended, Order, Pool, RoundDone, Started  # loads Flower

    with opening() as directory:
        listener = progress or SilentSweep()
        see_folders(dict.fromkeys(arm.folder for arm in directory.plan.arms))
        listener.began(Sweep(directory.path), directory.todo(retry_failed=retry_failed))
        schedule = Schedule(directory, listener, retry_failed=retry_failed)

        def order(part: Part) -> Order:
            run, until = part
            runtime: dict[str, Any] = {"engine": engine, "address": address}
            if engine == "ray":
                runtime["workers"] = run.experiment.runtime.workers
            tree = run.experiment.model_dump(by_alias=True) | {"runtime": runtime}
            path = directory.run_path(run.name)
            return Order(run.name, path, tomli_w.dumps(without_unset(tree)), until, copies)

        def heard(current: Order, said: Started | RoundDone | Ended) -> None:
            match said:
                case Started(rounds, done):
                    directory.note(current.name, State.RUNNING)
                    listener.run_started(current.name, rounds, done)
                case RoundDone(row):
                    listener.round_done(current.name, row)
                case Ended(state, reason):
                    directory.note(current.name, state, reason)
                    listener.run_ended(current.name, state, reason)
                    pool.add([order(part) for part in schedule.ended(current.name)])

        first = [order(part) for part in schedule.begin()]
        pool = Pool(first, workers or (1 if engine == "ray" else cores()), directory.path / LOG, heard)

        def tell() -> None:
            listener.stopping()
            pool.stop_after_round()

        with interruptible(tell):
            asked()  # from here on the first signal lets current rounds end
            pool.play()
            if asked():
                done = sum(state is State.COMPLETED for state in directory.states.values())
                raise Interrupted(
                    f"interrupted: {done} of {len(directory.states)} runs are completed; "
                    f"fedsim sweep --resume {directory.path} goes on"
                )
    return Sweep(directory.path)
