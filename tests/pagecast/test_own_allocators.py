"""Allocators of a user's own in simulations, written as a user would: a module beside the experiment file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pagecast
from sim.core.own_memory import AllocatorError
from sim.cost.block_moves import BlockMoves
from tests.command_line import EXPERIMENT, refused
from tests.command_line import pagecast as command

FIRST_FIT = '''
from pagecast import LATER, AllocStatus, BlockCopy, Grant


class FirstFit:
    """Adjacent blocks for each sequence, from the first gap that is long enough; it moves who cannot grow."""

    num_host_blocks = num_free_host = 0

    def __init__(self, num_blocks, block_size, moves: bool = True):
        self.num_blocks, self.block_size, self._moves = num_blocks, block_size, moves
        self._owner = [None] * num_blocks
        self._tables, self._lengths = {}, {}

    @property
    def num_free(self):
        return self._owner.count(None)

    def admit(self, seq_id, tokens):
        table = self._gap(-(-len(tokens) // self.block_size))
        if table is None:
            return LATER
        self._give(seq_id, table)
        self._lengths[seq_id] = len(tokens)
        return Grant(AllocStatus.OK)

    def append(self, seq_id, token):
        table, copies = self._tables[seq_id], ()
        if self._lengths[seq_id] == len(table) * self.block_size:
            after = table[-1] + 1
            if after < self.num_blocks and self._owner[after] is None:
                self._give(seq_id, [*table, after])
            else:
                gap = self._gap(len(table) + 1) if self._moves else None
                if gap is None:
                    return LATER
                self._take(seq_id)
                self._give(seq_id, gap)
                copies = tuple(BlockCopy(*pair) for pair in zip(table, gap))
        self._lengths[seq_id] += 1
        return Grant(AllocStatus.OK, copies=copies)

    def free(self, seq_id):
        self._take(seq_id)
        del self._lengths[seq_id]

    def table(self, seq_id):
        return self._tables[seq_id]

    def num_references(self, block):
        return int(self._owner[block] is not None)

    def _gap(self, size):
        run = 0
        for block, owner in enumerate(self._owner):
            run = run + 1 if owner is None else 0
            if run == size:
                return list(range(block - size + 1, block + 1))
        return None

    def _give(self, seq_id, table):
        self._tables[seq_id] = table
        for block in table:
            self._owner[block] = seq_id

    def _take(self, seq_id):
        for block in self._tables.pop(seq_id):
            self._owner[block] = None


class Hoards(FirstFit):
    """Keeps a block of whoever leaves."""

    def free(self, seq_id):
        block = self._tables[seq_id][0]
        super().free(seq_id)
        self._owner[block] = "nobody"


class Small(FirstFit):
    def __init__(self, num_blocks, block_size):
        super().__init__(num_blocks // 2, block_size)


class Short(FirstFit):
    """Forgets the block that a token needs."""

    def append(self, seq_id, token):
        return Grant(AllocStatus.OK)


class Stubborn(FirstFit):
    def append(self, seq_id, token):
        return LATER


class Mute(FirstFit):
    def append(self, seq_id, token):
        return None


class Finds(FirstFit):
    def admit(self, seq_id, tokens):
        return super().admit(seq_id, tokens)._replace(num_cached_tokens=1)


class Strict:
    def __init__(self, num_blocks, block_size, margin: int):
        raise ValueError(f"margin {margin} of {num_blocks} blocks of {block_size}")

    admit = append = free = table = None


class Half:
    def admit(self, seq_id, tokens): ...


class Even:
    """A step takes a millisecond."""

    def step_ends_ns(self, plan):
        return [1_000_000]


class Sized(FirstFit):
    """Asks for all it may."""

    def __init__(self, num_blocks, block_size, num_host_blocks, max_num_seqs, seed):
        assert (num_host_blocks, max_num_seqs, seed) == (0, 256, 5)
        super().__init__(num_blocks, block_size)
'''
TIGHT = (
    "engine.num_gpu_blocks_override=60",
    "engine.max_model_len=600",
    "workload.output_tokens={kind: uniform, low: 50, high: 250}",
)
PAGED = "engine.kv_allocation=sim.testing:PagedAllocator"
KEPT = "acceptance: {kind: constant, rate: 0.7}"
SETTINGS: dict[str, tuple[str, ...]] = {
    "tight": (),
    "chunked": ("engine.max_num_batched_tokens=64", "engine.max_num_seqs=32"),
    "threshold": ("engine.long_prefill_token_threshold=16",),
    "watermark": ("engine.watermark=0.1",),
    "without the gate": ("engine.scheduler=vllm-0.16",),
    "small blocks": ("engine.block_size=4", "engine.num_gpu_blocks_override=240"),
    "asynchronous": ("engine.async_scheduling=true",),
    "samples": ("workload.num_samples=3",),
    "static": ("engine.batching={kind: static, max_batch_size: 5}",),
    "priority": ("engine.scheduling_policy=priority",),
    "n-gram": (
        "speculation={proposer: ngram, num_speculative_tokens: 3, acceptance: {kind: constant, rate: 0.6}}",
    ),
    "draft model": (
        "model=llama-3.1-70b",
        "parallelism.tensor_parallel_size=4",
        f"speculation={{draft_model: llama-3.1-8b, num_speculative_tokens: 4, {KEPT}}}",
    ),
    "fleet": ("cluster.replicas=2", "workload.arrivals.rate=40 /s"),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("my_memory.py").write_text(FIRST_FIT, encoding="utf-8")
    Path("tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
    return tmp_path


def run(*overrides: str) -> pagecast.Run:
    return pagecast.simulate(pagecast.load("tiny.yaml", overrides))


def assert_same(one: pagecast.Run, other: pagecast.Run) -> None:
    tables = ((one.requests, other.requests), (one.steps, other.steps), (one.tokens, other.tokens))
    for ours, theirs in tables:
        for name in ours:
            if name not in ("finished", "requeue"):  # may be NaT, which equals nothing
                assert (ours[name] == theirs[name]).all(), name
    assert one.summary == other.summary


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_our_allocator_behind_the_interface_gives_the_run_of_paged_memory(settings: tuple[str, ...]) -> None:
    plain = run(*TIGHT, "engine.enable_prefix_caching=false", *settings)
    behind = run(*TIGHT, PAGED, *settings)
    assert_same(plain, behind)
    assert int(plain.summary["sim_preemptions"] or 0) > 5


def test_horizons_change_nothing_of_it() -> None:
    assert_same(run(*TIGHT, PAGED), run(*TIGHT, PAGED, "engine.max_horizon=1"))


def test_a_first_fit_allocator_serves_a_workload_to_its_end() -> None:
    found = run(*TIGHT, "engine.kv_allocation=my_memory:FirstFit")
    assert found.summary["completed"] == 30
    assert int(found.summary["sim_preemptions"] or 0) > 5
    paged = run(*TIGHT, "engine.enable_prefix_caching=false")
    assert int(found.summary["sim_preemptions"] or 0) > int(paged.summary["sim_preemptions"] or 0)


def test_copies_that_it_asks_for_are_counted_and_take_time() -> None:
    settings = (*TIGHT, "engine.kv_allocation=my_memory:FirstFit", "step_time={cost: my_memory:Even}")
    found = run(*settings)
    copied = found.steps["num_copied_blocks"]
    assert copied.sum() == found.summary["sim_blocks_copied"]
    assert copied.any()
    experiment = pagecast.load("tiny.yaml", settings)
    moves = BlockMoves.of(experiment.model, experiment.gpu, block_size=16)
    took = (found.steps["end"] - found.steps["start"]).astype(int)
    assert took.tolist() == [1_000_000 + moves.device_ns(num_copied) for num_copied in copied.tolist()]


def test_one_that_never_moves_copies_nothing() -> None:
    own = "engine.kv_allocation={class: my_memory:FirstFit, options: {moves: false}}"
    found = run(*TIGHT, own)
    assert found.summary["completed"] == 30
    assert not found.steps["num_copied_blocks"].any()


def test_one_that_refuses_every_token_serves_by_recomputing() -> None:
    """A sequence that cannot grow is preempted and comes back with its tokens so far."""
    found = run("engine.kv_allocation=my_memory:Stubborn", "workload.num_requests=3")
    assert found.summary["completed"] == 3
    tokens = found.requests["output_tokens"]
    assert (found.requests["num_preemptions"] == tokens - 1).all()


def test_one_that_gets_no_further_ends_the_run_by_name() -> None:
    with pytest.raises(
        AllocatorError, match=r"Stubborn refuses sequence \d+ room for 200 tokens, though no other"
    ):
        run(
            "engine.kv_allocation=my_memory:Stubborn",
            "engine.max_num_batched_tokens=100",
            "engine.max_num_seqs=10",
            "workload.prompt_tokens={kind: fixed, tokens: 300}",
        )


def test_its_constructor_gets_the_sizes_and_what_the_experiment_knows() -> None:
    assert run(*TIGHT, "seed=5", "engine.kv_allocation=my_memory:Sized").summary["completed"] == 30


def test_the_run_says_that_every_sequence_is_planned_by_itself() -> None:
    told = command(
        "simulate", "tiny.yaml", "--set", "engine.kv_allocation=my_memory:FirstFit", "--out", "run"
    )
    assert "engine.kv_allocation FirstFit: every sequence is planned by itself" in " ".join(
        told.output.split()
    )
    again = pagecast.load("run/config.yaml")
    assert again.engine == pagecast.load("tiny.yaml", ["engine.kv_allocation=my_memory:FirstFit"]).engine
    assert (Path("run") / "environment.json").read_text().count("my_memory.py") == 1


def test_explain_waste_draws_it(here: Path) -> None:
    own = [
        part for override in (*TIGHT[:1], "engine.max_model_len=512", PAGED) for part in ("--set", override)
    ]
    told = command("explain-waste", "tiny.yaml", *own, "--out", "waste", "--at", "2 s").stdout
    *_, paged, behind = re.findall(r"tokens +(\S+%) +(\S+%) +(\S+%) +(\S+%) +(\S+%)", told)[0]
    assert told.split("oracle")[1].split()[:2] == ["paged", "PagedAllocator"]
    assert paged == behind != "0.0%"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Hoards", "Hoards gave out 0 blocks, and|Hoards refuses sequence"),
        ("Short", r"Short gave sequence \d+ \d+ blocks of 16 for \d+ tokens"),
        ("Mute", "Mute answers None, which is no Grant"),
        ("Finds", "Finds found what was never stored"),
    ],
)
def test_an_allocator_that_breaks_its_word_ends_the_run_by_name(name: str, said: str) -> None:
    with pytest.raises((AllocatorError, AssertionError), match=said):
        run(*TIGHT, f"engine.kv_allocation=my_memory:{name}")


@pytest.mark.parametrize(
    ("engine", "at", "key", "said"),
    [
        ("{kv_allocation: pagd}", "pagd", "kv_allocation", "(did you mean 'paged'?)"),
        ("{kv_allocation: my_memory:FirstFitt}", "my_memory", "kv_allocation", "did you mean 'FirstFit'?"),
        (
            "{kv_allocation: my_memory:Half}",
            "my_memory",
            "kv_allocation",
            "Half is no allocator: it lacks append(seq_id, token), free(seq_id), table(seq_id)",
        ),
        ("{kv_allocation: my_memory:Small}", "my_memory", "kv_allocation", "Small has num_blocks"),
        (
            "{kv_allocation: my_memory:Strict}",
            "kv_allocation",
            "kv_allocation.options",
            "needs the option margin",
        ),
        (
            "{kv_allocation: {class: my_memory:Strict, options: {margin: 3}}}",
            "{class",
            "kv_allocation",
            "Strict cannot be made: ValueError: margin 3 of",
        ),
        (
            "{kv_allocation: {class: my_memory:FirstFit, options: {num_blocks: 3}}}",
            "num_blocks",
            "kv_allocation.options.num_blocks",
            "unknown option",
        ),
        (
            "{kv_allocation: my_memory:FirstFit, enable_prefix_caching: true}",
            "true",
            "enable_prefix_caching",
            "needs paged memory, and kv_allocation is my_memory:FirstFit, an allocator of your own",
        ),
        (
            "{scheduler: vllm-v0, kv_allocation: my_memory:FirstFit}",
            "my_memory",
            "kv_allocation",
            "scheduler vllm-v0 has no memory but a paged one",
        ),
    ],
)
def test_what_cannot_be_is_told_with_its_place(engine: str, at: str, key: str, said: str) -> None:
    written = f"engine: {engine}"
    Path("wrong.yaml").write_text(
        EXPERIMENT.replace("engine:\n  max_model_len: 4096", written), encoding="utf-8"
    )
    message = refused("check", "wrong.yaml")
    assert f"wrong.yaml:4:{written.index(at) + 1}: engine.{key}: " in message.replace("\n", "")
    assert said in " ".join(message.split())


def test_offload_is_refused_with_it() -> None:
    message = refused(
        "check",
        "tiny.yaml",
        "--set",
        "engine.kv_allocation=my_memory:FirstFit",
        "--set",
        "offload.space=1 GiB",
    )
    assert "enable_prefix_caching is false" in " ".join(message.split())
