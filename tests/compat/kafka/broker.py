"""A real Kafka, one node, in a directory of its own: started, filled by another client, stopped, handed over.

Everything it does is bounded: the heap (512 MB), the wait for its start (90 s), the wait for its end (60 s).
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.compat.kafka import jvm

_START_S = 90
_STOP_S = 60
_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
inter.broker.listener.name=PLAINTEXT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.backoff.ms=500
log.initial.task.delay.ms=500
"""


@dataclass(slots=True)
class Kafka:
    """A running broker. directory: its log.dirs, with a folder a partition."""

    process: subprocess.Popen[bytes]
    bootstrap: str
    directory: Path
    log: Path

    def partition(self, topic: str, partition: int = 0) -> Path:
        return self.directory / f"{topic}-{partition}"

    def stop(self) -> None:
        """An orderly stop: everything is flushed, a clean-shutdown mark is left."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different; another process may still take one before us."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def running_kafka(base: Path) -> Iterator[Kafka]:
    """Start a Kafka below a directory; it is stopped at the end if the block did not do it."""
    port, controller = _free_ports(2)
    data, config, log = base / "data", base / "server.properties", base / "broker.log"
    config.write_text(_PROPERTIES.format(port=port, controller=controller, data=data), encoding="ascii")
    format_arguments = ("format", "--standalone", "-t", "bXFjb3JlLWludGVyb3AtMQ", "-c", str(config))
    formatted = jvm.run("broker", "kafka.tools.StorageTool", *format_arguments)
    assert formatted.returncode == 0, formatted.stdout + formatted.stderr
    with open(log, "wb") as output:
        process = subprocess.Popen(
            jvm.command("broker", "kafka.Kafka", str(config)), stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    kafka = Kafka(process, f"127.0.0.1:{port}", data, log)
    try:
        _wait_until_ready(kafka)
        yield kafka
    finally:
        kafka.stop()


def _wait_until_ready(kafka: Kafka) -> None:
    """Until it lists its topics; AssertionError with the end of its log if it ends or never answers."""
    admin = admin_of(kafka)
    until = time.monotonic() + _START_S
    while True:
        try:
            admin.list_topics(timeout=2)
            return
        except Exception as error:
            alive = kafka.process.poll() is None
            if not alive or time.monotonic() > until:
                tail = kafka.log.read_text(errors="replace")[-3000:]
                raise AssertionError(f"Kafka did not start ({error}):\n{tail}") from error


def admin_of(kafka: Kafka) -> Any:
    from confluent_kafka.admin import AdminClient

    # A broker that is not up yet is expected here, and librdkafka would say so on standard error.
    return AdminClient({"bootstrap.servers": kafka.bootstrap, "log_level": 0})


def create_topic(kafka: Kafka, name: str, config: dict[str, str]) -> None:
    """A topic of one partition."""
    from confluent_kafka.admin import NewTopic

    admin = admin_of(kafka)  # kept: its end would cancel the request
    admin.create_topics([NewTopic(name, 1, 1, config=config)])[name].result(timeout=30)
