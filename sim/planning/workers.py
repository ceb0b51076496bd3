"""Rows from one process, or from a pool of them that outlives its workers.

A worker that dies (out of memory, killed) takes the pool with it; a new one is started, and whatever was
under way is run again, alone. A run whose worker died three times is given up, as a row with that error. Rows
come back in any order. On a Ray cluster the cluster does all that. Refuses to know what a task does.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

from sim.errors import ConfigError, Problem
from sim.planning.point_run import Row, Task, run_task

MAX_DEATHS = 3
"""Of the processes that a run was under way in, before it is given up."""
Run = Callable[[Task], Row]


def run_in_this_process(tasks: Sequence[Task], run: Run = run_task) -> Iterator[tuple[Task, Row]]:
    """One after the other."""
    for task in tasks:
        yield task, run(task)


def run_in_a_pool(tasks: Sequence[Task], num_workers: int, run: Run = run_task) -> Iterator[tuple[Task, Row]]:
    """By so many processes; each row as soon as it is there."""
    left, deaths = {task.number: task for task in tasks}, Counter[int]()
    while left:
        suspects = [task for task in left.values() if deaths[task.number]]
        size = 1 if suspects else num_workers  # whoever was there when a worker died runs alone from then on
        died: list[Task] = []
        with _pool(size) as pool:
            for task, row in _drain(pool, suspects[:1] or list(left.values()), size, run, died):
                del left[task.number]
                yield task, row
        for task in died:
            deaths[task.number] += 1
            if deaths[task.number] >= MAX_DEATHS:
                del left[task.number]
                yield task, _given_up()


def _given_up() -> Row:
    return Row("", f"its process died {MAX_DEATHS} times: killed, or out of memory", "", 0, {})


def _pool(num_workers: int) -> ProcessPoolExecutor:
    # Workers leave an interruption to their parent, which tells them to stop.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(num_workers, context, initializer=_ignore_interruptions)


def _ignore_interruptions() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _drain(
    pool: ProcessPoolExecutor, batch: list[Task], num_workers: int, run: Run, died: list[Task]
) -> Iterator[tuple[Task, Row]]:
    """Rows of a batch until it is through or a worker has died; `died` gets what was under way then."""
    waiting = deque(batch)
    under_way: dict[Future[Row], Task] = {}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < 2 * num_workers:
                task = waiting.popleft()
                under_way[pool.submit(run, task)] = task
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                row = future.result()
                yield under_way.pop(future), row
    except BrokenProcessPool:
        finished = [future for future in under_way if future.done() and future.exception() is None]
        for future in finished:
            yield under_way.pop(future), future.result()
        died += under_way.values()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def run_on_ray(tasks: Sequence[Task], address: str | None, run: Run = run_task) -> Iterator[tuple[Task, Row]]:
    """On a Ray cluster; rows are kept in the sweep's folder, which every node has to reach.

    Raises:
        ConfigError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        message = "needs Ray, which is not installed: pip install 'pagecast[cluster]'"
        raise ConfigError([Problem("--on ray", "", message)]) from error
    ray.init(address=address, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    remote = ray.remote(max_retries=MAX_DEATHS)(run)
    under_way = {remote.remote(task): task for task in tasks}
    while under_way:
        (done,), _ = ray.wait(list(under_way), num_returns=1)
        task = under_way.pop(done)
        try:
            yield task, ray.get(done)
        except ray.exceptions.RayError as error:
            yield task, Row("", f"its worker was lost: {type(error).__name__}", "", 0, {})
