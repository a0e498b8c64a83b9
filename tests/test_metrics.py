"""What metrics systems are told of loops."""

import asyncio
import itertools
import json
import re
import struct
import threading

import pytest
from support import ROOT, Recorder, check_program, eventually, run_python, turns

from flexsc_loop.insight import layout, names, own_loops, read
from flexsc_loop.insight.told import counts_of
from flexsc_loop.scheduler import NOTHING_COUNTED

pytestmark = pytest.mark.ours


async def work(loop):
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    transport, protocol = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    transport.write(b"x" * 1000)
    await loop.run_in_executor(None, int)
    await asyncio.sleep(0.02)
    transport.close()
    await protocol.until_called("lost")
    server.close()
    await server.wait_closed()
    while loop.stats()["connections"]:
        await asyncio.sleep(0.001)


# ---- Prometheus


@pytest.fixture
def registry():
    prometheus_client = pytest.importorskip("prometheus_client")
    return prometheus_client.CollectorRegistry()


def samples(registry):
    from prometheus_client.exposition import generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    text = generate_latest(registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text) for sample in family.samples
    }


async def test_prometheus(way, loop, registry):
    from flexsc_loop import prometheus

    collector = prometheus.register(registry, loop)
    await work(loop)
    found, stats = samples(registry), read(loop)
    mine = (("loop", str(stats.number)), ("pages", way.pages))
    assert found["flexsc_io_bytes_total", (("direction", "receive"), *mine)] == 1000
    assert found["flexsc_io_bytes_total", (("direction", "transmit"), *mine)] == 1000
    assert found["flexsc_accepts_total", mine] == 1
    assert found["flexsc_executor_jobs_total", mine] == 1
    assert found["flexsc_connections", mine] == 0
    assert 0.01 < found["asyncio_eventloop_time_seconds_total", (*mine, ("state", "idle"))] < 60
    for name in ("asyncio_eventloop_turn_duration_seconds", "asyncio_eventloop_delay_seconds"):
        buckets = [(float(dict(labels)["le"]), value) for (key, labels), value in found.items()
                   if key == f"{name}_bucket"]
        assert buckets == sorted(buckets) and [value for _, value in buckets] == sorted(value for _, value in buckets)
        assert buckets[-1] == (float("inf"), found[f"{name}_count", mine])
        assert 0 < found[f"{name}_sum", mine] < 60
    assert found["asyncio_eventloop_turn_duration_seconds_count", mine] <= stats.counts["turns"]
    registry.unregister(collector)
    assert samples(registry) == {}


async def test_prometheus_tells_of_the_syscall_thread_and_the_scheduler(way, loop, registry, monkeypatch):
    from flexsc_loop import prometheus

    prometheus.register(registry, loop)
    monkeypatch.setattr(loop.choice, "counters", lambda: {**NOTHING_COUNTED, "trials_lost": 3, "alarms_steal": 2})
    await work(loop)

    def told(name, **more):
        stats = read(loop)
        labels = {"loop": str(stats.number), "pages": way.pages, **more}
        return samples(registry)[name, tuple(sorted(labels.items()))]

    assert told("flexsc_scheduler_trials_total", outcome="lost") == 3
    assert told("flexsc_scheduler_trials_total", outcome="won") == 0
    assert told("flexsc_scheduler_alarms_total", cause="steal") == 2
    assert told("flexsc_syscall_threads") == (way.threads != "off")
    if way.threads == "off":
        assert told("flexsc_syscall_thread_cpu_time_seconds_total") == 0
        assert told("flexsc_syscall_thread_run_delay_seconds_total") == 0
        return
    while not read(loop).syscall_thread:
        await asyncio.sleep(0.001)
    before = loop.stats()["thread_cpu_ns"] / 1e9
    assert 0 < before <= told("flexsc_syscall_thread_cpu_time_seconds_total") <= loop.stats()["thread_cpu_ns"] / 1e9
    with open(f"/proc/self/task/{read(loop).syscall_thread}/schedstat") as file:
        delay = int(file.read().split()[1]) / 1e9
    assert delay <= told("flexsc_syscall_thread_run_delay_seconds_total")


def test_every_count_is_told(loop):
    """Of the stats page, and of what `loop.stats()` adds to it."""
    counts = counts_of(loop, read(loop))
    told = {name for metric in names.COUNTERS + names.GAUGES for name in metric.counts}
    assert told <= set(counts)
    # `trials` are those that have ended and one that goes on; `pool_most` never changes.
    assert set(counts) - told == {"trials", "pool_most"}


def test_prometheus_tells_of_all_loops(new_loop, registry):
    from flexsc_loop import prometheus

    loops = [new_loop() for _ in range(2)]
    prometheus.register(registry)
    numbers = {str(read(loop).number) for loop in loops}

    def told():
        return {dict(labels)["loop"] for name, labels in samples(registry) if name == "flexsc_connections"} & numbers

    assert told() == numbers
    assert [loop for loop in own_loops() if loop in loops] == loops
    loops[0].close()
    assert told() == {str(read(loops[1]).number)}


def test_prometheus_from_another_thread_while_the_loop_runs(new_loop, registry):
    from flexsc_loop import prometheus

    loop = new_loop()
    prometheus.register(registry, loop)
    seen = []

    async def main():
        def scrape():
            for _ in range(20):
                seen.append(samples(registry))

        thread = threading.Thread(target=scrape)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0)

    loop.run_until_complete(main())
    counts = [next(value for (name, _), value in found.items() if name == "asyncio_eventloop_turns_total")
              for found in seen]
    assert counts == sorted(counts) and counts[-1] > counts[0]


@pytest.mark.one_way
def test_loops_that_come_and_go(way, registry):
    """There are no more series than loops at a time, and nothing that was counted is lost."""
    from flexsc_loop import prometheus

    prometheus.register(registry)

    def run(times, most):
        for _ in range(times):
            loop = way.new_loop()
            numbers.append(read(loop).number)
            loop.run_until_complete(work(loop))
            loop.close()
            seen.append(samples(registry))
        assert len(set(numbers)) <= most

    numbers, seen = [], []
    run(3, 1)
    other = way.new_loop()  # has the least number
    run(3, 2)
    other.close()
    run(3, 2)

    def total(found, name):
        return sum(value for (sample, labels), value in found.items()
                   if sample == name and dict(labels)["loop"] in mine)

    mine = {str(number) for number in numbers}
    assert [total(found, "flexsc_accepts_total") for found in seen] == list(range(1, 10))
    assert not any(dict(labels)["loop"] in mine for name, labels in seen[0] if name == "flexsc_connections")
    counts = [total(found, "asyncio_eventloop_turn_duration_seconds_count") for found in seen]
    assert counts == sorted(set(counts))
    for before, after in itertools.pairwise(seen):
        for key, value in before.items():
            if key[0].endswith(("_total", "_bucket", "_sum", "_count")) and "run_delay" not in key[0]:
                assert after[key] >= value, key


@pytest.mark.one_way
def test_loops_that_come_and_go_while_another_thread_collects(way):
    """A loop that is just being closed is told of once: not both as an open one and as a closed one, nor as neither."""
    pytest.importorskip("prometheus_client")
    check_program(way, """
import threading
from flexsc_loop import prometheus
from flexsc_loop.insight import read

def collect():
    while not over:
        seen.append([sample.value for metric in collector.collect() for sample in metric.samples
                     if sample.name == "asyncio_eventloop_turns_total"])

collector = prometheus.LoopCollector()
over, seen = [], []
thread = threading.Thread(target=collect)
interval = sys.getswitchinterval()
sys.setswitchinterval(1e-6)
thread.start()
turns = 0
for _ in range(300):
    loop = new_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    turns += read(loop).counts["turns"]
over.append(True)
sys.setswitchinterval(interval)
thread.join()
assert all(len(values) <= 1 for values in seen), "one series"
told = [values[0] for values in seen if values]
assert told == sorted(told) and told[-1] <= turns, told
print("done")
""", out="done\n")


@pytest.mark.one_way
def test_a_forked_child_tells_of_its_own_loops(way):
    pytest.importorskip("prometheus_client")
    check_program(way, """
import os
from flexsc_loop import prometheus
from flexsc_loop.insight import own_loops

def told():
    return {sample.value for metric in collector.collect() for sample in metric.samples
            if sample.name == "flexsc_syscalls_total"}

collector = prometheus.LoopCollector()
new_loop().close()
loop = new_loop()
loop.run_until_complete(asyncio.sleep(0.01))
ended = new_loop()
ended.run_until_complete(asyncio.sleep(0.01))
ended.close()
assert len(told()) == 2 and own_loops() == [loop]
child = os.fork()
if child == 0:
    assert told() == set() and own_loops() == []
    loop.close()
    assert told() == set()
    mine = new_loop()
    mine.run_until_complete(asyncio.sleep(0.01))
    assert len(told()) == 1 and own_loops() == [mine]
    mine.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert len(told()) == 2
loop.close()
print("done")
""", out="done\n")


def seconds_by_state(registry):
    return {dict(labels)["state"]: value for (name, labels), value in samples(registry).items()
            if name == "asyncio_eventloop_time_seconds_total"}


def test_prometheus_tells_of_what_goes_on_now(new_loop, registry):
    """Of a sleep and of a turn that never end, too."""
    from flexsc_loop import prometheus

    loop = new_loop()
    prometheus.register(registry, loop)
    seen = []

    def look(wanted):
        state = {"asleep": "idle", "running": "active"}[wanted]
        assert eventually(lambda: read(loop).state == wanted)
        before = seconds_by_state(registry)[state]
        seen.append(eventually(lambda: seconds_by_state(registry)[state] > before + 0.1))

    async def main():
        await asyncio.to_thread(look, "asleep")
        thread = threading.Thread(target=look, args=("running",))
        thread.start()
        thread.join()

    loop.run_until_complete(main())
    assert seen == [True, True]


async def test_what_is_counted_never_falls(loop, registry, monkeypatch):
    """Though a tick is found to be shorter than it was thought to be."""
    from flexsc_loop import prometheus

    prometheus.register(registry, loop)
    await work(loop)
    before = samples(registry)
    raw = bytearray(loop._stats_page())
    begun, now = struct.unpack_from("=QQ", raw, layout.HEAD.size - 40)
    assert now > begun
    struct.pack_into("=Q", raw, layout.HEAD.size - 32, begun + (now - begun) * 9 // 10)
    monkeypatch.setattr(loop, "_stats_page", lambda: bytes(raw))
    assert read(loop).counts["job_wait"] > 0
    after = samples(registry)
    counters = [key for key in before if key[0].endswith(("_total", "_bucket", "_sum", "_count"))]
    assert counters and all(after[key] >= before[key] for key in counters)


def test_prometheus_names(new_loop, registry):
    """Base units, `_total` for counters and for nothing else."""
    from flexsc_loop import prometheus

    loop = new_loop()
    prometheus.register(registry, loop)
    for metric in registry.collect():
        assert re.fullmatch(r"(asyncio|flexsc)_[a-z_]+", metric.name)
        assert not metric.name.endswith("_total")
        assert all(sample.name.endswith("_total") for sample in metric.samples if metric.type == "counter")
        assert not any(sample.name.endswith("_total") for sample in metric.samples if metric.type != "counter")
    assert all(metric.unit in ("s", "By") or metric.unit.startswith("{") for metric in names.COUNTERS + names.GAUGES)


@pytest.mark.parametrize("module, needs", [("prometheus", "prometheus_client"), ("opentelemetry", "opentelemetry")])
def test_what_is_missing_is_named(module, needs):
    end = run_python(f"import sys; sys.modules[{needs!r}] = None\nimport flexsc_loop.{module}")
    assert end.code == 1 and f"flexsc_loop.{module} needs {needs}" in end.err


# ---- OpenTelemetry


@pytest.fixture
def telemetry():
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    yield reader, provider
    provider.shutdown()


def told(reader):
    data = reader.get_metrics_data()
    if data is None:
        return {}
    return {
        metric.name: [(dict(point.attributes), point.value) for point in metric.data.data_points]
        for resource in data.resource_metrics for scope in resource.scope_metrics for metric in scope.metrics
    }


async def test_opentelemetry(way, loop, telemetry):
    from flexsc_loop.opentelemetry import instrument

    reader, provider = telemetry
    instrumentation = instrument(loop, provider)
    assert instrument(loop, provider) is instrumentation
    await work(loop)
    found = told(reader)
    mine = {"flexsc.loop": read(loop).number, "flexsc.pages": way.pages}
    assert ({**mine, "network.io.direction": "receive"}, 1000) in found["flexsc.io"]
    assert found["flexsc.accepts"] == [(mine, 1)]
    assert found["flexsc.connections"] == [(mine, 0)]
    states = {attributes["asyncio.eventloop.state"]: value for attributes, value in found["asyncio.eventloop.time"]}
    assert set(states) == {"active", "idle", "syscall"} and states["idle"] > 0.01
    ((_, utilization),) = found["asyncio.eventloop.utilization"]
    assert 0 < utilization < 1
    quantiles = [found[f"asyncio.eventloop.delay.{name}"][0][1] for name in ("min", "p50", "p90", "p99", "max")]
    assert quantiles == sorted(quantiles)
    # The next ones are of the time since.
    threading.Event().wait(0.5)
    await turns()
    assert told(reader)["asyncio.eventloop.turn.duration.max"][0][1] > 0.4
    await turns()
    assert told(reader)["asyncio.eventloop.turn.duration.max"][0][1] < 0.4
    # A turn that goes on is no idle time.
    threading.Event().wait(0.05)
    assert told(reader)["asyncio.eventloop.utilization"][0][1] > 0.9
    instrumentation.uninstrument(loop)
    assert not told(reader).get("flexsc.accepts")


def test_opentelemetry_of_several_loops(new_loop, telemetry):
    from flexsc_loop.opentelemetry import instrument

    reader, provider = telemetry
    loops = [new_loop() for _ in range(2)]
    for loop in loops:
        instrument(loop, provider)
    assert len(told(reader)["flexsc.connections"]) == 2
    loops[0].close()
    assert [attributes["flexsc.loop"] for attributes, _ in told(reader)["flexsc.connections"]] == [
        read(loops[1]).number]


@pytest.mark.one_way
def test_opentelemetry_of_loops_that_come_and_go(way, telemetry):
    """The next loop of a number adds to what the last one has counted: a sum that fell would be a negative one."""
    from flexsc_loop.opentelemetry import instrument

    reader, provider = telemetry
    accepts, mine = [], []
    for _ in range(3):
        loop = way.new_loop()
        mine.append({"flexsc.loop": read(loop).number, "flexsc.pages": read(loop).pages})
        instrument(loop, provider)
        loop.run_until_complete(work(loop))
        loop.close()
        del loop
        found = told(reader)
        accepts.append(dict(found["flexsc.accepts"][0][0]) == mine[0] and found["flexsc.accepts"][0][1])
        assert not found.get("flexsc.connections")
    assert accepts == [1, 2, 3] and mine == mine[:1] * 3


@pytest.mark.one_way
def test_opentelemetry_of_another_loop(way, telemetry):
    from flexsc_loop.opentelemetry import instrument

    loop = asyncio.new_event_loop()
    with pytest.raises(TypeError, match="a loop of flexsc_loop"):
        instrument(loop, telemetry[1])
    loop.close()


# ---- the dashboard


def test_the_dashboard_asks_for_metrics_that_there_are():
    pytest.importorskip("prometheus_client")
    from flexsc_loop import prometheus

    dashboard = json.loads((ROOT / "examples" / "grafana_dashboard.json").read_text())
    known = {prometheus.metric_name(metric) + "_total" for metric in names.COUNTERS}
    known |= {prometheus.metric_name(metric) for metric in names.GAUGES}
    known |= {f"{name.replace('.', '_')}_seconds_{end}" for name, _ in (names.TURN, names.DELAY)
              for end in ("bucket", "sum", "count")}
    asked = {name for panel in dashboard["panels"] for target in panel["targets"]
             for name in re.findall(r"\b(?:asyncio|flexsc)_\w+", target["expr"])}
    assert asked and asked <= known
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
