"""`run`: an experiment from its description to its report."""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections.abc import Callable

from cat_jax.cli import child
from cat_jax.cli.command import GinFlags
from cat_jax.cli.experiment import Experiment, default_jobs
from cat_jax.cli.outputs import check_writable
from cat_jax.cli.runner import Runner
from cat_jax.cli.stages import Ledger
from cat_jax.errors import UserError
from cat_jax.files import read_json
from cat_jax.lock import locked

logger = logging.getLogger(__name__)


def run(
    experiment: Experiment,
    run_dir: str,
    jobs: int | None = None,
    rerun_changed: bool = False,
    *,
    flags: GinFlags,
    accepted: Callable[[], None] = lambda: None,
) -> list[pathlib.Path]:
    """Takes an experiment through prepare, train, teach, evaluate and cascade; finished stages are skipped.

    Args:
      experiment: what to compare.
      run_dir: everything goes there: store, models, signals, tables, logs, report.html.
      jobs: stages that run at once; None: as many as suit this machine (see `default_jobs`).
      rerun_changed: whether a stage whose configuration has changed is deleted and done again; else it is refused.
      flags: the configuration flags, which every stage is given again.
      accepted: called once nothing is wrong with the configuration, before the first stage starts.

    Returns:
      The reports.

    Raises:
      UserError: a wrong or changed configuration, before anything is started; or a stage that failed.
      Preempted: SIGTERM came; the stages have saved what they had.
    """
    from cat_jax.cli.plan import Plan  # late: it checks every stage's configuration, which imports what they name

    jobs = default_jobs() if jobs is None else jobs
    if not isinstance(jobs, int) or jobs < 1:
        raise UserError(f"JOBS is {jobs!r}", "give a count of stages to run at once, from 1")
    check_writable(run_dir, "RUN_DIR")
    plan = Plan(experiment, run_dir, flags, jobs)
    with hold(plan.run_dir) as lock:
        logger.info("%d stages, %d at once on %d cores", len(plan.stages), jobs, len(child.usable_cores()))
        ledger = Ledger(plan.run_dir)
        ledger.pending(plan.stages, rerun_changed)  # refuses a change of what is finished
        accepted()
        Runner(plan.stages, ledger, plan.run_dir, jobs, lock).run(rerun_changed)
    return [plan.report_dir(*pair) / "report.html" for pair in plan.pairs()]


def hold(run_dir: pathlib.Path, patience: float = 60.0) -> contextlib.AbstractContextManager[int]:
    """The lock of a run directory, to be inherited by its stages.

    It stays held while a stage of a killed run still lives, so that no two trainers write one checkpoint.
    """
    mend = "wait for it, stop it, or name another RUN_DIR"
    return locked(run_dir / ".lock", "another run or its stages", mend, patience=patience, wait_for_living=False)


def table_of(report: pathlib.Path) -> str:
    """The table of objectives of a report, as text."""
    from cat_jax.report.text import objectives_table

    return objectives_table(read_json(report.parent / "results.json", "results", "run it again"))
