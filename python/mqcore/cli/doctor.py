"""mqcore doctor: what this machine gives a store, what is off, and what to do about it.

Decisions are pure functions of what the probes of `mqcore.log.machine` found: a finding is a name, a value, whether
it is fine, and a remedy where it is not.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click
from rich.table import Table
from rich.text import Text

from mqcore._version import __version__
from mqcore.cli.output import human_bytes, print_json, stdout
from mqcore.cli.stores import json_option, store_option
from mqcore.log import machine

State = Literal["ok", "slow", "off"]
# Per open partition a few mappings and, while in use, a few descriptors: figures for a thousand partitions.
WANTED_FILES = 4096
WANTED_MAPS = 65530
WANTED_FREE_BYTES = 1 << 30
SLOW_SYNC_US = 5000
# Below this a sync cannot have reached a disk's platter or flash without a cache that keeps power.
INSTANT_SYNC_US = 10

DURABILITY = (
    ("fsync", "the default", "process death, kernel crash, power loss", "journal written and synced, one sync a round"),
    ("os", "by choice", "process death (kill -9 included)", "bytes are in the page cache"),
    ("memory", "mqcore.open(':memory:')", "nothing", "tests"),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. value: as measured; remedy: empty where there is nothing to do."""

    name: str
    value: str
    state: State = "ok"
    remedy: str = ""


@click.command()
@store_option
@json_option
def doctor(store_path: Path, as_json: bool) -> None:
    """Say what this machine gives a store, and what is off.

    \b
    Measures the write and sync cost where the store is (or would be); takes about a second.
    Example: mqcore doctor --store /var/lib/mqcore
    """
    findings = [*look_at_software(), *look_at_disk(store_path), *look_at_limits(machine.limits())]
    levels = [
        {"durability": name, "chosen": chosen, "survives": survives, "acknowledged_when": when}
        for name, chosen, survives, when in DURABILITY
    ]
    if as_json:
        print_json({"findings": [asdict(finding) for finding in findings], "durability": levels})
        return
    stdout.print(findings_table(findings))
    stdout.print(durability_table())
    off = [finding for finding in findings if finding.remedy]
    for finding in off:
        stdout.print(Text.assemble((f"{finding.name}: ", "bold yellow"), finding.remedy), soft_wrap=True)
    if not off:
        stdout.print(Text("Nothing is off.", style="green"))


def look_at_software() -> list[Finding]:
    """Versions, processor, checksum path, optional packages."""
    active, usable = machine.crc32c_path()
    fastest = usable[-1] if usable else active
    findings = [
        Finding("mqcore", f"{__version__} on Python {platform.python_version()}, {machine.kernel()}"),
        Finding("processor", f"{platform.machine()}: {', '.join(machine.cpu_features()) or 'no known features'}"),
    ]
    if len(usable) <= 1:
        remedy = "This processor has no CRC-32C instruction: checksums cost about 2 GB/s per core"
        findings.append(Finding("crc32c", active, "slow", remedy))
    elif active != fastest:
        findings.append(Finding("crc32c", active, "slow", f"Unset MQCORE_CRC32C: {fastest} is faster"))
    else:
        findings.append(Finding("crc32c", f"{active} (of {', '.join(usable)})"))
    for package, what in (("pyarrow", "arrow"), ("pandas", "pandas")):
        if importlib.util.find_spec(package) is None:
            findings.append(Finding(package, f"not installed (pip install 'mqcore[{what}]' for batch.to_{what})"))
        else:
            findings.append(Finding(package, f"installed (batch.to_{what})"))
    return findings


def look_at_disk(path: Path) -> list[Finding]:
    """The store's file system, its free space, what a sync costs there, and the kernel's calls on it."""
    system = machine.file_system(path)
    findings = [judge_file_system(path, system), judge_space(system)]
    findings += judge_sync(machine.sync_cost(path), system.kind)
    findings.append(
        judge_call(
            "preallocation", machine.can_preallocate(path), "fallocate(KEEP_SIZE)", "appends fragment, ENOSPC late"
        )
    )
    findings.append(
        judge_call("page population", machine.can_populate(path), "MADV_POPULATE_READ", "reads are probed with pread")
    )
    there, free = machine.shared_memory()
    if there:
        findings.append(Finding("/dev/shm", f"tmpfs, {human_bytes(free)} free"))
    else:
        remedy = "Mount a tmpfs there: without it other processes cannot follow a store's appends"
        findings.append(Finding("/dev/shm", "missing or not writable", "off", remedy))
    return findings


def judge_file_system(path: Path, system: machine.FileSystem) -> Finding:
    value = f"{system.kind} at {system.mount_point} ({','.join(system.options)}) for {path}"
    kind = "fuse" if system.kind.startswith("fuse") else system.kind
    if kind in machine.WEAK_FILE_SYSTEMS:
        return Finding("file system", value, "off", f"{system.kind} is {machine.WEAK_FILE_SYSTEMS[kind]}")
    if "ro" in system.options:
        return Finding("file system", value, "off", "Mounted read-only: a store there can only be read")
    weak = {"nobarrier", "barrier=0"} & set(system.options)
    if weak:
        return Finding("file system", value, "off", f"Mounted with {', '.join(weak)}: a sync may lie about power loss")
    return Finding("file system", value)


def judge_space(system: machine.FileSystem) -> Finding:
    value = f"{human_bytes(system.free_bytes)} of {human_bytes(system.total_bytes)}, {system.free_inodes:,} inodes"
    if system.free_bytes < WANTED_FREE_BYTES:
        return Finding("free space", value, "off", "Less than 1 GiB is free: one segment of the default size fills it")
    if system.free_inodes < 10_000 and system.kind not in ("btrfs", "zfs", "xfs"):
        return Finding("free space", value, "off", "Inodes run out: each partition takes four files a segment")
    return Finding("free space", value)


def judge_sync(cost: machine.SyncCost | None, kind: str) -> list[Finding]:
    """The cost of a write and of a sync; an instant sync on a disk is as suspicious as a slow one is dear."""
    if cost is None:
        return [Finding("sync", "not measured", "off", "Nothing can be written there")]
    write = Finding("write 4 KiB", f"p50 {cost.write_p50_us:.0f} µs, p99 {cost.write_p99_us:.0f} µs")
    value = f"p50 {cost.sync_p50_us:.0f} µs, p99 {cost.sync_p99_us:.0f} µs ({cost.rounds} rounds)"
    if cost.sync_p50_us > SLOW_SYNC_US:
        remedy = "A sync takes milliseconds: wait for many sends at once (flush, send_many), or choose durability os"
        return [write, Finding("fdatasync", value, "slow", remedy)]
    if cost.sync_p50_us < INSTANT_SYNC_US and kind not in machine.WEAK_FILE_SYSTEMS:
        remedy = "Too quick for a disk: a cache answers. Make sure that it keeps power, or fsync keeps no promise"
        return [write, Finding("fdatasync", value, "off", remedy)]
    return [write, Finding("fdatasync", value)]


def judge_call(name: str, works: bool | None, call: str, otherwise: str) -> Finding:
    if works:
        return Finding(name, f"{call} works")
    return Finding(name, f"{call} {'does not work' if works is False else 'could not be tried'}: {otherwise}", "slow")


def look_at_limits(found: Mapping[str, int | None]) -> list[Finding]:
    """Limits of this process and of the kernel against what a thousand partitions want."""
    files, maps, locked = found["nofile"], found["max_map_count"], found["memlock_bytes"]
    findings = [Finding("memory lock", "unlimited" if locked is None else human_bytes(locked))]
    if files is not None and files < WANTED_FILES:
        remedy = f"ulimit -n {WANTED_FILES} (or LimitNOFILE= of the service) before many partitions are open"
        findings.append(Finding("open files", f"{files:,}", "slow", remedy))
    else:
        findings.append(Finding("open files", "unlimited" if files is None else f"{files:,}"))
    if maps is not None and maps < WANTED_MAPS:
        findings.append(Finding("mappings", f"{maps:,}", "slow", f"sysctl vm.max_map_count={WANTED_MAPS}"))
    else:
        findings.append(Finding("mappings", "unknown" if maps is None else f"{maps:,}"))
    return findings


def findings_table(findings: list[Finding]) -> Table:
    table = Table(header_style="bold")
    table.add_column("what", style="bold")
    table.add_column("found", overflow="fold")
    table.add_column("")
    colours: dict[str, str] = {"ok": "green", "slow": "yellow", "off": "red"}
    for finding in findings:
        table.add_row(finding.name, Text(finding.value), Text(finding.state, style=colours[finding.state]))
    return table


def durability_table() -> Table:
    table = Table(
        title="What an acknowledgement survives", title_justify="left", title_style="bold", header_style="bold"
    )
    for name in ("durability", "", "survives", "how"):
        table.add_column(name, overflow="fold")
    for row in DURABILITY:
        table.add_row(*row)
    return table
