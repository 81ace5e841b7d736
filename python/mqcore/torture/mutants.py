"""T22: bugs planted on purpose, each of which a named attack must notice. A checker that never fails is none (R14).

    python -P -m mqcore.torture.mutants ATTACK SEED      (a child of the suite; the bug is named by the environment)

For each bug: a process with the bug (and its workers) runs the smallest attack that should see it; the same attack without the
bug must find nothing. An attack that dies of the bug, or raises, has not caught it: only a reported violation counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from mqcore.torture import (
    buffers,
    clock,
    fork_threads,
    hanging,
    kill_eos,
    planted,
    power,
    probes,
    rebalance_storm,
    txn_power,
    zombies,
)
from mqcore.torture.attack import environment, workplace
from mqcore.torture.ledger import Found
from mqcore.torture.report import Report

_POWER_STEPS, _POWER_STATES = 40, 500
_TIMEOUT_S = 300


def _power(seed: int) -> Report:
    """Some hundred crash states of a short workload: with what was not synced lost, kept, or partly so."""
    report = Report("power", seed)
    with workplace() as place:
        power.sample(report, place, _POWER_STEPS, _POWER_STATES, ("m1", "m1", "m4", "m5", "m6"))
    return report


def _probe(probe: Callable[[Path], Found]) -> Callable[[int], Report]:
    def attack(seed: int) -> Report:
        report = Report(probe.__name__, seed)
        with workplace() as place:
            report.absorb(probe(place))
        report.acked = report.faults_injected["probe"] = 1
        return report

    return attack


ATTACKS: dict[str, Callable[[int], Report]] = {
    "power": _power,
    "txn-power": lambda seed: txn_power.run(seed, 1200, transactions=20),
    "txn-kill": lambda seed: txn_power.run(seed, 1200, durability="os", transactions=20),
    "clock": lambda seed: clock.run(seed, 30),
    "buffers": lambda seed: buffers.run(seed, 800),
    "fork-threads": lambda seed: fork_threads.run(seed, 3, operations=6400, exits=False),
    "rebalance-storm": lambda seed: rebalance_storm.run(seed, 80),
    "kill-eos": lambda seed: kill_eos.run(seed, 60),
    "zombies": lambda seed: zombies.run(seed, 300),
    "hanging": lambda seed: hanging.run(seed, 40),
    "open-transaction": _probe(probes.open_transaction_is_not_read),
    "flipped-byte": _probe(probes.flipped_byte),
    "view-ahead": _probe(probes.view_ahead_of_its_log),
    "vouched-damage": _probe(probes.damage_where_the_journal_vouches),
}

# Planted bug -> the attack that must notice it.
CAUGHT_BY: dict[str, str] = {
    "journal_sync_skipped": "power",
    "directory_sync_skipped": "power",
    "segment_sync_skipped": "power",
    "acknowledged_before_the_round": "power",
    "journal_not_replayed": "power",
    "ring_freed_before_the_flush": "power",
    "clean_shutdown_kept_while_writing": "power",
    "torn_tail_not_cut": "power",
    "prepare_before_data": "txn-kill",
    "marker_believed_without_its_decision": "txn-power",
    "decision_believed_without_proof": "txn-power",
    "decisions_synced_in_place": "txn-power",
    "open_transactions_left_open": "txn-power",
    "read_above_the_durable_mark": "buffers",
    "buffer_not_copied": "buffers",
    "bad_batch_skipped_in_silence": "flipped-byte",
    "checksum_not_checked": "flipped-byte",
    "view_ahead_believed": "view-ahead",
    "proven_offsets_given_again": "vouched-damage",
    "retention_believes_the_clock": "clock",
    "ids_go_by_the_wall_clock": "clock",
    "lock_not_taken": "fork-threads",
    "child_is_not_told": "fork-threads",
    "generation_ignored": "rebalance-storm",
    "offsets_committed_before_results": "kill-eos",
    "marker_missed": "kill-eos",
    "conflicts_ignored": "kill-eos",
    "state_shown_before_the_decision": "kill-eos",
    "decided_ones_aborted_at_open": "kill-eos",
    "old_holder_not_fenced": "zombies",
    "member_not_checked": "zombies",
    "epoch_not_raised": "hanging",
    "aborts_not_indexed": "hanging",
    "time_outs_ignored": "hanging",
    "open_transactions_are_read": "open-transaction",
    "last_stable_offset_off_by_one": "open-transaction",
}


def run(seed: int, faults: int, progress: Callable[[int], None] = lambda _: None, attack: str | None = None) -> Report:
    """The first `faults` bugs of the table (all, if it has fewer), and each attack once without one. attack: only those that
    this one catches."""
    table = [(bug, by) for bug, by in CAUGHT_BY.items() if attack in (None, by)]
    chosen = dict(table[:faults])
    report = Report("mutants", seed, faults_wanted=len(chosen), sends=False)
    report.mutants = len(chosen)
    for by in dict.fromkeys(chosen.values()):
        violations = _run(by, seed, "", report)
        if violations is None or violations:
            report.violate("R14", f"{by} fails without a planted bug: {violations}")
    for number, (name, by) in enumerate(chosen.items()):
        violations = _run(by, seed, name, report)
        report.faults_injected["mutant"] += 1
        if violations:
            report.mutants_caught += 1
            report.notes[name] = f"{by}: {', '.join(sorted(violations))}"
        else:
            report.violate("R14", f"{name} is not caught by {by}" + (" (no result)" if violations is None else ""))
        progress(number + 1)
    return report


def _run(attack: str, seed: int, bug: str, report: Report) -> dict[str, int] | None:
    """The violations that an attack reports, in a process of its own; None if it ended without a report."""
    command = [sys.executable, "-P", "-m", "mqcore.torture.mutants", attack, str(seed)]
    try:
        result = subprocess.run(
            command, env=environment(**{planted.VARIABLE: bug}), capture_output=True, text=True, timeout=_TIMEOUT_S,
            check=False,
        )  # fmt: skip
        told = json.loads(result.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError) as error:
        report.notes[f"{bug or 'no bug'} under {attack}"] = f"{type(error).__name__}"
        return None
    if result.returncode != 0 or not told["attacked"]:
        return None
    violations: dict[str, int] = told["violations"]
    return violations


def main() -> None:
    planted.apply_from_environment()
    report = ATTACKS[sys.argv[1]](int(sys.argv[2]))
    died = any("process died" in sentence for sentence in report.examples)  # of the bug, or of the checker: no proof
    attacked = sum(report.faults_injected.values()) > 0 and report.acked > 0 and not died
    told = {"violations": dict(report.violations), "examples": report.examples, "attacked": attacked}
    print(json.dumps(told), flush=True)
    sys.stdout.flush()
    os._exit(0)  # what the bug left behind is no part of the answer


if __name__ == "__main__":
    main()
