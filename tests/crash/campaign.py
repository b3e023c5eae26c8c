"""Runs many seeds of the simulation on several processors and adds them up."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count, islice

from tests.crash.simulator import Result, simulate

STATES_PER_SEED = 2000


@dataclass
class Campaign:
    """The sum of all seeds. States are distinct within their seed; those of two seeds differ."""

    seeds: list[int] = field(default_factory=list)
    states: int = 0
    distinct: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.seeds.append(result.seed)
        self.states += result.states
        self.distinct += result.distinct
        self.failures += result.failures

    def is_enough(self, states: int, seeds: int) -> bool:
        """Tell whether there is nothing more to find out: all seen, or something found."""
        seen = self.distinct >= states and len(self.seeds) >= seeds
        return seen or bool(self.failures)

    def summary(self, seconds: float) -> str:
        """Return a line for people."""
        outcome = f"{len(self.failures)} FAILED" if self.failures else "all right"
        return (
            f"{len(self.seeds)} seeds, {self.states} states, {self.distinct} distinct, "
            f"{self.distinct / seconds:.0f} distinct a second: {outcome}"
        )


def run_campaign(
    states: int,
    seeds: int,
    processes: int,
    first_seed: int = 0,
    only_seed: int | None = None,
    mutation: str | None = None,
    report: Callable[[str], None] = print,
) -> Campaign:
    """Run seeds until there are enough of both, or the first failure.

    Args:
        states: distinct states to look at.
        seeds: least number of seeds.
        processes: how many run at a time.
        first_seed: the others follow.
        only_seed: run just this one.
        mutation: name of a bug to plant.
        report: told about each seed that fails, and now and then how far things are.
    """
    campaign = Campaign()
    numbers: Iterator[int] = iter([only_seed]) if only_seed is not None else count(first_seed)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        running = set()
        while not campaign.is_enough(states, seeds):
            for number in islice(numbers, processes - len(running)):
                running.add(pool.submit(simulate, number, STATES_PER_SEED, mutation))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                result = future.result()
                campaign.add(result)
                for failure in result.failures:
                    report(f"{failure}\n  again: tools/crashsim --seed {result.seed}")
                if len(campaign.seeds) % 50 == 0:
                    report(f"{len(campaign.seeds)} seeds, {campaign.distinct} distinct states")
    return campaign
