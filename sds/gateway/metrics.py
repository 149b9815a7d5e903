"""The engine's figures in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "text"]

# Figure by figure of each kind of item: what it means.
_POOL = {
    "capacity_bytes": "What the pool's disks can hold.",
    "allocated_bytes": "What volumes and metadata take.",
    "free_bytes": "What is left.",
    "provisioned_bytes": "The sum of the volumes' sizes.",
    "volumes": "Volumes.",
    "disks": "Disks.",
}
_DISK = {"capacity_bytes": "What the disk can hold.", "allocated_bytes": "What is allocated on it."}
_VOLUME = {"size_bytes": "The size that hosts see.", "allocated_bytes": "The space that the volume takes."}
# Groups of the core's figures, and what their label is called.
_GROUPS = {"cores": "core", "pools": "pool"}


class _Snapshot(Collector):
    def __init__(self, figures: Mapping[str, Any]) -> None:
        self._figures = figures

    def collect(self) -> Iterable[Metric]:
        """Every family, once."""
        figures = self._figures
        yield GaugeMetricFamily("sds_engine_uptime_seconds", "Since the engine's start.", figures["uptime_s"])
        yield GaugeMetricFamily("sds_sessions", "Hosts that are connected.", figures["sessions"])
        state = GaugeMetricFamily("sds_pool_online", "1 if the pool is online.", labels=["pool"])
        for pool in figures["pools"]:
            state.add_metric([pool["name"]], float(pool["state"] == "online"))
        yield state
        yield from _families("pool", _POOL, figures["pools"], {"pool": "name"})
        yield from _families("disk", _DISK, figures["disks"], {"pool": "pool", "disk": "uuid", "tier": "tier"})
        yield from _families("volume", _VOLUME, figures["volumes"], {"pool": "pool", "volume": "name"})
        yield from _of_core(figures["core"])


def text(figures: Mapping[str, Any]) -> bytes:
    """What `metrics_get` of the engine gave, as text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Snapshot(figures))
    return generate_latest(registry)


def _families(
    kind: str, meanings: Mapping[str, str], items: Iterable[Mapping[str, Any]], labels: Mapping[str, str]
) -> Iterator[Metric]:
    for figure, meaning in meanings.items():
        family = GaugeMetricFamily(f"sds_{kind}_{figure}", meaning, labels=list(labels))
        for item in items:
            family.add_metric([str(item[key]) for key in labels.values()], item[figure])
        yield family


def _of_core(figures: Mapping[str, Any]) -> Iterator[Metric]:
    """What the core counts: plain figures, and groups by what their label names."""
    for key, value in figures.items():
        if key not in _GROUPS:
            yield GaugeMetricFamily(f"sds_{key}", "A figure of the data path.", float(value))
            continue
        label = _GROUPS[key]
        for figure in next(iter(value.values()), {}):
            family = GaugeMetricFamily(f"sds_{label}_{figure}", f"A figure of each {label}.", labels=[label])
            for name, of_one in value.items():
                family.add_metric([name], float(of_one[figure]))
            yield family
