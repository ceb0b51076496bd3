"""The rules of vLLM's V1 scheduler (0.32), written once more and plainly: the oracle of the one in the core.

One sequence and one step at a time; queues are lists that are searched, the free queue is a list of ids,
content is found by looking through all blocks. It shares no code with the core but the settings and requests
that both are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sim.core.block_pool import FreeOrder
from sim.core.engine import EngineConfig
from sim.core.kv_cache import CacheConfig
from sim.core.policy import PolicyKind
from sim.core.request import Request
from sim.core.scheduler_config import SchedulerConfig


@dataclass(eq=False)
class Plain:
    """A sequence."""

    seq_id: int
    request: Request
    sample: int
    known: int
    computed: int = 0
    drafts: int = 0
    in_flight: int = 0
    table: list[int] = field(default_factory=list)
    num_registered: int = 0
    is_over: bool = False
    is_chunk: bool = False
    was_preempted: bool = False


@dataclass(frozen=True)
class Row:
    """What a sequence computes in a step."""

    seq: Plain
    kind: str
    num_tokens: int
    num_computed: int
    num_drafts: int
    yields: bool


class PlainScheduler:
    """Queues, blocks and rules in one place."""

    def __init__(self, config: EngineConfig) -> None:
        assert isinstance(config.cache, CacheConfig)
        assert isinstance(config.scheduler, SchedulerConfig)
        self.cache = config.cache
        self.rules = config.scheduler
        first = int(self.cache.has_null_block)
        self.free = list(range(first, first + self.cache.num_blocks))
        self.holders: dict[int, int] = {}
        self.content: dict[int, Any] = {}
        """Key of each block that has one, in the order of registration."""
        self.running: list[Plain] = []
        self.waiting: list[Plain] = []
        self.num_seqs = 0

    # Coming and going

    def submit(self, request: Request) -> None:
        for sample in range(request.num_samples):
            self.waiting.append(Plain(self.num_seqs, request, sample, request.num_prompt_tokens))
            self.num_seqs += 1

    def skip_ids(self, request: Request) -> None:
        """A refused request takes up its ids all the same."""
        self.num_seqs += request.num_samples

    def abort(self, request_id: int) -> list[int]:
        ended = [seq for seq in (*self.running, *self.waiting) if seq.request.request_id == request_id]
        for seq in sorted(ended, key=lambda seq: seq.sample):
            self._end(seq)
        return sorted(seq.seq_id for seq in ended)

    def _end(self, seq: Plain) -> None:
        seq.is_over = True
        (self.running if seq in self.running else self.waiting).remove(seq)
        self._give_back(seq)

    # Order

    def queue(self) -> list[Plain]:
        """Who waits, in the order of turn."""
        if self.rules.policy is PolicyKind.FCFS:
            return self.waiting
        return sorted(self.waiting, key=lambda seq: (*self._rank(seq), str(seq.sample) + "_"))

    @staticmethod
    def _rank(seq: Plain) -> tuple[int, int, int]:
        """Samples of one request have one rank."""
        return seq.request.priority, seq.request.arrival_ns, seq.seq_id - seq.sample

    def _victim(self) -> Plain:
        if self.rules.policy is PolicyKind.FCFS:
            return self.running[-1]
        worst = max(self._rank(seq) for seq in self.running)
        return next(seq for seq in self.running if self._rank(seq) == worst)

    # Blocks

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-min(num_tokens, self.rules.max_model_len) // self.cache.block_size)

    def _take(self, seq: Plain, count: int) -> None:
        for _ in range(count):
            block = self.free.pop(0)
            self.content.pop(block, None)
            self.holders[block] = 1
            seq.table.append(block)

    def _give_back(self, seq: Plain) -> None:
        last_held = []
        for block in reversed(seq.table):
            self.holders[block] -= 1
            if not self.holders[block]:
                del self.holders[block]
                last_held.append(block)
        to_tail = [
            block for block in last_held if block in self.content or self.cache.free_order is FreeOrder.TAIL
        ]
        to_head = [block for block in last_held if block not in to_tail]
        if not self.cache.enable_prefix_caching and self.cache.free_order is FreeOrder.UNHASHED_FIRST:
            to_head, to_tail = last_held, []
        self.free = to_head + self.free + to_tail
        seq.table, seq.num_registered = [], 0

    def _register(self, seq: Plain, num_tokens: int) -> None:
        if not self.cache.enable_prefix_caching or seq.request.content is None:
            return
        if self.cache.num_key_lookahead_tokens:
            num_tokens = min(num_tokens, seq.known - self.cache.num_key_lookahead_tokens)
        for place in range(seq.num_registered, num_tokens // self.cache.block_size):
            (self.content[seq.table[place]],) = seq.request.content.keys(seq.sample, place, place + 1)
            seq.num_registered = place + 1

    def _hit(self, seq: Plain) -> list[int]:
        hit: list[int] = []
        if not self.cache.enable_prefix_caching or seq.request.content is None:
            return hit
        while (len(hit) + 1) * self.cache.block_size < seq.known:
            (key,) = seq.request.content.keys(seq.sample, len(hit), len(hit) + 1)
            same = [block for block, held in self.content.items() if held == key]
            if not same:
                break
            hit.append(same[0])
        return hit[:-1] if self.cache.drops_last_hit else hit

    # A step

    def schedule(self) -> tuple[list[Row], list[int]]:
        """Who computes what, and who was preempted."""
        rules = self.rules
        self.rows: list[Row] = []
        self.preempted: list[int] = []
        self.budget = rules.token_budget
        self.room = rules.max_num_batched_tokens
        self.threshold = rules.long_prefill_token_threshold or 10**9
        if rules.exempt_lone_prompt and len(self.running) + len(self.waiting) <= 1:
            self.threshold = 10**9
        for seq in list(self.running):
            if self.budget <= 0 or self.room <= rules.num_draft_rows:
                break
            if seq in self.running and not self._schedule_running(seq):
                break
        ran_in_prompt = any(row.seq.is_chunk for row in self.rows)
        num_ran = len(self.rows)
        while not self.preempted and self.waiting and self.budget > 0:
            if len(self.running) == rules.max_num_seqs or self.room <= rules.num_draft_rows:
                break
            if not self._admit(self.queue()[0], num_ran, ran_in_prompt):
                break
        for row in self.rows:
            row.seq.computed += row.num_tokens
            row.seq.is_chunk = not row.yields
            if row.yields and rules.async_scheduling:
                row.seq.in_flight += 1 + row.num_drafts
                row.seq.drafts = rules.num_speculative_tokens
        return self.rows, self.preempted

    def _schedule_running(self, seq: Plain) -> bool:
        rules = self.rules
        asked = seq.request.num_prompt_tokens + seq.request.max_tokens
        if seq.in_flight and seq.computed + 2 - seq.in_flight >= asked:
            return True
        num_tokens = min(
            seq.known + seq.drafts + seq.in_flight - seq.computed,
            self.threshold,
            self.budget,
            self.room - rules.num_draft_rows,
            rules.max_model_len - 1 - seq.computed,
        )
        if num_tokens <= 0:
            return True
        wanted = self._num_blocks(seq.computed + num_tokens + rules.num_lookahead_slots) - len(seq.table)
        while wanted > len(self.free):
            victim = self._victim()
            self._preempt(victim)
            if victim is seq:
                return rules.goes_on_after_self_preemption
        self._take(seq, max(wanted, 0))
        self._register(seq, min(seq.computed + num_tokens, seq.known))
        self._add(seq, "running", num_tokens, max(seq.computed + num_tokens - seq.known - seq.in_flight, 0))
        seq.drafts = 0
        return True

    def _preempt(self, victim: Plain) -> None:
        for row in [row for row in self.rows if row.seq is victim]:
            self.rows.remove(row)
            self.budget += row.num_tokens
            self.room += row.num_tokens + self.rules.num_draft_rows
        self.running.remove(victim)
        self._give_back(victim)
        victim.computed = victim.drafts = 0
        victim.was_preempted = True
        self.waiting.insert(0, victim)
        self.preempted.append(victim.seq_id)

    def _admit(self, seq: Plain, num_ran: int, ran_in_prompt: bool) -> bool:
        rules, size = self.rules, self.cache.block_size
        hit = self._hit(seq)
        found = len(hit) * size
        num_tokens, num_drafts = seq.known - found, 0
        budget = min(self.budget, self.room - rules.num_draft_rows)
        padded = 1 + rules.num_speculative_tokens
        pads = rules.num_speculative_tokens and rules.pad_single_token_admissions and not ran_in_prompt
        if pads and num_tokens == 1 and (num_ran or hit) and found + padded + 1 <= rules.max_model_len:
            if padded > budget:
                return False
            num_tokens, num_drafts = padded, padded - 1
        else:
            num_tokens = min(num_tokens, self.threshold)
            if num_tokens > budget and not rules.enable_chunked_prefill:
                return False
            num_tokens = min(num_tokens, budget)
        now = self._num_blocks(found + num_tokens + rules.num_lookahead_slots) - len(hit)
        wanted = max(now, self._num_blocks(seq.known) - len(hit)) if rules.full_sequence_gate else now
        watermark = self.cache.fraction_of_blocks(rules.watermark_fraction) if self.running else 0
        if max(wanted, 0) + sum(block in self.free for block in hit) + watermark > len(self.free):
            return False
        for block in hit:
            if block in self.free:
                self.free.remove(block)
            self.holders[block] = self.holders.get(block, 0) + 1
        seq.table, seq.num_registered = hit, len(hit)
        self._take(seq, max(now, 0))
        seq.computed = found
        self._register(seq, min(found + num_tokens, seq.known))
        self.waiting.remove(seq)
        self.running.append(seq)
        self._add(seq, "resumed" if seq.was_preempted else "new", num_tokens, num_drafts)
        return True

    def _add(self, seq: Plain, kind: str, num_tokens: int, num_drafts: int) -> None:
        yields = seq.computed + num_tokens - num_drafts == seq.known + seq.in_flight
        self.rows.append(Row(seq, kind, num_tokens, seq.computed, num_drafts, yields))
        self.budget -= num_tokens
        self.room -= num_tokens + self.rules.num_draft_rows

    # What it gave

    def settle(self, rows: list[Row], accepted: Mapping[int, int], proposed: Mapping[int, int]) -> list[int]:
        """Deliver tokens; who ended, in order."""
        ended = []
        for row in rows:
            seq = row.seq
            if row.yields and not seq.is_over and self._deliver(row, accepted.get(seq.seq_id, 0)):
                ended.append(seq.seq_id)
            elif row.yields and seq in self.running and not self.rules.async_scheduling:
                seq.drafts = proposed.get(seq.seq_id, 0)
        return ended

    def _deliver(self, row: Row, num_accepted: int) -> bool:
        seq, rules = row.seq, self.rules
        runs = seq in self.running
        if rules.async_scheduling:
            seq.in_flight -= 1 + row.num_drafts
        if runs:
            seq.computed -= row.num_drafts - num_accepted
        end = min(seq.request.num_prompt_tokens + seq.request.max_tokens, rules.max_model_len)
        num_dropped = 0
        for _ in range(num_accepted + 1):
            if seq.known == end:
                num_dropped += 1
            else:
                seq.known += 1
        registers = rules.registers_at_update and rules.num_speculative_tokens > 0
        if runs and (rules.async_scheduling or registers):
            self._register(seq, seq.computed - seq.in_flight - num_dropped)
        if seq.known == end:
            self._end(seq)
            return True
        return False
