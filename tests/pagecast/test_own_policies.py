"""Policies of a user's own, written as a user would: a module beside the experiment file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import pagecast
from tests.command_line import EXPERIMENT, refused
from tests.command_line import pagecast as command

PAGE = (Path(pagecast.__file__).parent / "README.md").read_text(encoding="utf-8")
(EXAMPLES,) = re.findall(r"```python\n(class Youngest:.*?)```", PAGE, re.DOTALL)
POLICIES = (
    EXAMPLES
    + '''

import pagecast


class Asked:
    """Counts how often it is asked; chooses as vLLM would."""

    times = 0

    def choose(self, running, needy):
        Asked.times += 1
        return running[-1]


class Outsider:
    def choose(self, running, needy):
        return None


class Longest:
    """The longest prompt first."""

    def key(self, seq):
        return -seq.num_prompt_tokens


class Mine(pagecast.Scheduler):
    """Overrides a rule as a subclass."""

    def _choose_victim(self):
        Asked.times += 1
        return max(self.running, key=lambda seq: (seq.request.arrival_ns, seq.seq_id))


class SameAsOurs(pagecast.Scheduler):
    """Changes nothing."""


class Halves:
    """Half the tokens are kept: nothing, everything, nothing, ..."""

    expected_rate = 0.5

    def __init__(self, start: int = 0) -> None:
        self._turn = start

    def num_accepted(self, seq, num_drafts):
        self._turn += 1
        return num_drafts if self._turn % 2 else 0


class Slow:
    def draft_ns(self, num_seqs, context_tokens, num_drafts):
        return 5_000_000 * num_drafts


class PerRow:
    """A step takes a millisecond, and 10 us for each row."""

    def step_ends_ns(self, plan):
        assert plan.horizon == 1 and len(plan.rows) == plan.num_running
        return [1_000_000 + 10_000 * len(plan.rows)]


class Quick(PerRow):
    predicts_horizons = True

    def step_ends_ns(self, plan):
        return [1_000_000 * (place + 1) for place in range(plan.horizon)]


class Nowhere:
    def choose(self, spec, outstanding):
        return len(outstanding)


class Drawn:
    def __init__(self, seed: int, spread: float = 0.5) -> None:
        if spread < 0:
            raise ValueError("spread must not be negative")
        self.seed = seed

    def choose(self, spec, outstanding):
        return self.seed % len(outstanding)
'''
)
TIMES = {"first_scheduled", "first_token", "last_token", "finished"}
"""May be NaT, which equals nothing; the tokens say as much."""
TIGHT = (
    "engine.num_gpu_blocks_override=60",
    "engine.max_model_len=600",
    "workload.output_tokens={kind: uniform, low: 50, high: 250}",
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("my_policies.py").write_text(POLICIES, encoding="utf-8")
    Path("tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
    return tmp_path


def run(*overrides: str) -> pagecast.Run:
    return pagecast.simulate(pagecast.load("tiny.yaml", overrides))


def same(one: pagecast.Run, other: pagecast.Run) -> bool:
    tables = ((one.requests, other.requests), (one.steps, other.steps), (one.tokens, other.tokens))
    return all(
        (ours[name] == theirs[name]).all() for ours, theirs in tables for name in ours if name != "finished"
    )


def asked() -> int:
    import my_policies  # type: ignore[import-not-found]  # beside the experiment file

    return int(my_policies.Asked.times)


# Victims ------------------------------------------------------------------------------------------------


def test_a_victim_choice_is_asked_at_every_shortage_and_its_answer_counts() -> None:
    plain = run(*TIGHT)
    as_vllm = run(*TIGHT, "engine.victim_choice=my_policies:Asked")
    assert asked() == plain.summary["sim_preemptions"]
    assert asked() > 5
    assert same(plain, as_vllm)


def test_preempting_the_youngest_spares_the_oldest() -> None:
    order = "engine.waiting_order=my_policies:Longest"  # so that the last admitted is not the youngest
    last, youngest = run(*TIGHT, order), run(*TIGHT, order, "engine.victim_choice=my_policies:Youngest")
    assert not same(last, youngest)
    hurt = youngest.requests["num_preemptions"]
    arrivals = np.arange(len(hurt))
    assert hurt.sum() > 5
    weighted = [
        float((arrivals * found).sum() / found.sum()) for found in (hurt, last.requests["num_preemptions"])
    ]
    assert weighted[0] > weighted[1]


def test_the_run_says_that_the_fast_path_is_off() -> None:
    told = command(
        "simulate", "tiny.yaml", "--set", "engine.victim_choice=my_policies:Youngest", "--out", "run"
    )
    assert "planned by itself in every step" in " ".join(told.output.split())


def test_an_override_in_a_subclass_of_the_scheduler_is_called() -> None:
    plain = run(*TIGHT)
    mine = run(*TIGHT, "engine.scheduler_cls=my_policies:Mine")
    assert asked() > 5
    assert same(plain, run(*TIGHT, "engine.scheduler_cls=my_policies:SameAsOurs"))
    assert mine.summary["completed"] == 30


def test_a_victim_that_does_not_run_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="Outsider chose None, which does not run"):
        run(*TIGHT, "engine.victim_choice=my_policies:Outsider")


# Waiting order, router ----------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon", ["1", "null"])
def test_a_waiting_order_decides_who_is_let_in_first(horizon: str) -> None:
    crowd = ("workload.arrivals={kind: closed_loop, concurrency: 30}", "engine.max_num_seqs=2")
    found = run(*crowd, "engine.waiting_order=my_policies:Longest", f"engine.max_horizon={horizon}")
    by_turn = np.argsort(found.requests["first_scheduled"], kind="stable")
    prompts = found.requests["prompt_tokens"][by_turn][2:]
    assert (np.diff(prompts) <= 0).all()


def test_a_waiting_order_keeps_horizons_exact() -> None:
    order = ("engine.waiting_order=my_policies:Longest", *TIGHT)
    assert same(run(*order), run(*order, "engine.max_horizon=1"))


def test_a_router_of_ones_own_balances_tokens() -> None:
    lengths = "workload.output_tokens={kind: uniform, low: 1, high: 400}"
    fleet = ("cluster.replicas=3", lengths, "workload.num_requests=300", "workload.arrivals.rate=200 /s")
    own = "cluster.router={class: my_policies:TokenBalance, options: {prompt_weight: 0.1}}"

    def imbalance(found: pagecast.Run) -> float:
        tokens = np.bincount(found.requests["replica"], weights=found.requests["output_tokens"])
        return float(tokens.max() / tokens.mean())

    assert imbalance(run(*fleet, own)) < imbalance(run(*fleet))


def test_a_router_that_names_no_replica_is_refused_by_name() -> None:
    with pytest.raises(RuntimeError, match="Nowhere sent request 0 to replica 2 of 2"):
        run("cluster.replicas=2", "cluster.router=my_policies:Nowhere")


def test_a_constructor_is_given_what_the_experiment_knows() -> None:
    found = run("cluster.replicas=2", "cluster.router=my_policies:Drawn", "seed=3")
    assert set(found.requests["replica"]) == {1}


# Cost, speculation --------------------------------------------------------------------------------------


def test_a_cost_model_of_ones_own_prices_every_step() -> None:
    found = run("step_time={cost: my_policies:PerRow}")
    took = (found.steps["end"] - found.steps["start"]).astype(int)
    assert (took == 1_000_000 + 10_000 * found.steps["num_running"]).all()
    quick = run("step_time={cost: my_policies:Quick}")
    assert set((quick.steps["end"] - quick.steps["start"]).astype(int)) == {1_000_000}


def test_a_law_and_a_proposer_of_ones_own_speculate() -> None:
    acceptance = "acceptance: {kind: own, law: {class: my_policies:Halves, options: {start: 1}}}"
    speculation = f"speculation={{proposer: my_policies:Slow, num_speculative_tokens: 2, {acceptance}}}"
    found = run(speculation, "workload.output_tokens={kind: fixed, tokens: 40}")
    assert found.summary["completed"] == 30
    assert 0.3 < float(found.summary["sim_acceptance_rate"] or 0) < 0.7
    assert set(found.steps["drafting"].astype(int)) == {0, 10_000_000}


# Files --------------------------------------------------------------------------------------------------


def test_a_resolved_configuration_finds_the_class_again_from_elsewhere(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "cluster.router={class: my_policies:TokenBalance, options: {prompt_weight: 2}}"
    first = pagecast.load("tiny.yaml", ["cluster.replicas=2", own])
    pagecast.simulate(first, "run")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    (elsewhere / "my_policies.py").write_text("class Other: pass\n", encoding="utf-8")
    again = pagecast.load(here / "run" / "config.yaml")
    assert again.cluster == first.cluster
    assert (here / "run" / "environment.json").read_text().count("my_policies.py") == 1


def test_two_folders_may_have_a_module_of_one_name(tmp_path: Path) -> None:
    for number in (0, 1):
        folder = tmp_path / f"place{number}"
        folder.mkdir()
        (folder / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
        policy = f"class Always:\n    def choose(self, spec, outstanding):\n        return {number}\n"
        (folder / "same_name.py").write_text(policy, encoding="utf-8")
    for number in (0, 1):
        overrides = ["cluster.replicas=2", "cluster.router=same_name:Always"]
        found = pagecast.simulate(pagecast.load(tmp_path / f"place{number}" / "tiny.yaml", overrides))
        assert set(found.requests["replica"]) == {number}


@pytest.mark.parametrize(
    ("written", "at", "key", "said"),
    [
        (
            "cluster: {router: my_policies:TokenBalanced}",
            "my_policies:TokenBalanced",
            "cluster.router",
            "did you mean 'TokenBalance'?",
        ),
        (
            "cluster: {router: my_policy:TokenBalance}",
            "my_policy:TokenBalance",
            "cluster.router",
            "there is no module my_policy",
        ),
        ("cluster: {router: round_robbin}", "round_robbin", "cluster.router", "did you mean 'round_robin'?"),
        (
            "cluster: {router: my_policies:Longest}",
            "my_policies:Longest",
            "cluster.router",
            "lacks choose(spec, outstanding)",
        ),
        ("cluster: {router: my_policies:times}", "my_policies:times", "cluster.router", "has no times"),
        ("cluster: {router: 'a b:c'}", "'", "cluster.router", "must be a module and a class in it"),
        ("cluster: {router: 3}", "3", "cluster.router", "must be a class of your own"),
        (
            "cluster: {router: {klass: my_policies:Drawn}}",
            "klass",
            "cluster.router.klass",
            "did you mean 'class'?",
        ),
        ("cluster: {router: {options: {}}}", "router", "cluster.router.class", "is required and missing"),
        (
            "cluster: {router: {class: my_policies:Drawn, options: {spreed: 1}}}",
            "spreed",
            "cluster.router.options.spreed",
            "did you mean 'spread'?",
        ),
        (
            "cluster: {router: {class: my_policies:Drawn, options: {spread: wide}}}",
            "wide",
            "cluster.router.options.spread",
            "'wide' does not do: Input should be a valid number",
        ),
        (
            "cluster: {router: {class: my_policies:Drawn, options: {spread: -1}}}",
            "{class",
            "cluster.router",
            "cannot be made: ValueError: spread must not be negative",
        ),
        (
            "engine: {victim_choice: broken:Choice}",
            "broken:Choice",
            "engine.victim_choice",
            "cannot be imported: SyntaxError",
        ),
        (
            "engine: {victim_choice: needs:Choice}",
            "needs:Choice",
            "engine.victim_choice",
            "needs nowhere_at_all, which is",
        ),
        (
            "engine: {scheduler: vllm-v0, victim_choice: my_policies:Youngest}",
            "my_policies:Youngest",
            "engine.victim_choice",
            "scheduler vllm-v0 has no choice of victims",
        ),
        (
            "engine: {scheduling_policy: priority, waiting_order: my_policies:Longest}",
            "priority",
            "engine.scheduling_policy",
            "is replaced by engine.waiting_order",
        ),
    ],
)
def test_what_is_wrong_with_a_class_is_told_with_its_place(
    written: str, at: str, key: str, said: str
) -> None:
    Path("broken.py").write_text("class Choice(:\n", encoding="utf-8")
    Path("needs.py").write_text("import nowhere_at_all\n", encoding="utf-8")
    plain = EXPERIMENT.replace("engine:\n  max_model_len: 4096\n", "")
    lines = plain.splitlines()
    lines.insert(3, "slo: {ttft: 100 ms, tpot: 20 ms}")
    lines.insert(4, written)
    Path("wrong.yaml").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    message = refused("simulate", "wrong.yaml")
    column = written.index(at) + 1
    assert f"wrong.yaml:5:{column}: {key}: " in message.replace("\n", "")
    assert said in " ".join(message.split())
