# SPDX-License-Identifier: Apache-2.0
"""Why a pod does not fit on a node, in the words of who asked: shares of 100 a GPU."""

from __future__ import annotations

from harp.scheduler.cluster import WHOLE_MILLI, Cluster, Pod
from harp.units import format_size

__all__ = ["refusal"]


def refusal(cluster: Cluster, pod: Pod, row: int) -> str:
    """What the pod lacks on this node; empty if it fits. Of several reasons, the most lasting."""
    node = cluster.nodes[row]
    if pod.num_gpu and not cluster.has_model(pod)[row]:
        return f"GPU model is {node.model or 'unknown'}, need {' or '.join(pod.gpu_spec)}"
    if pod.num_gpu and (lack := _lacking_gpus(cluster, pod, row)):
        return lack
    cpu, memory = int(cluster.cpu_free[row]), int(cluster.memory_free[row])
    if cpu < pod.cpu_milli:
        return f"{cpu / 1000:g} CPUs are free, need {pod.cpu_milli / 1000:g}"
    if memory < pod.memory_bytes:
        return f"{format_size(memory)} of memory are free, need {format_size(pod.memory_bytes)}"
    return ""


def _lacking_gpus(cluster: Cluster, pod: Pod, row: int) -> str:
    free: list[int] = cluster.gpu_free[row].tolist()
    fitting = sum(milli >= pod.gpu_milli for milli in free)
    if fitting >= pod.num_gpu:
        return ""
    if pod.num_gpu == 1:
        return f"largest free share on one GPU is {_share(max(free))}, need {_share(pod.gpu_milli)}"
    what = "whole GPUs" if pod.gpu_milli == WHOLE_MILLI else f"GPUs with {_share(pod.gpu_milli)}"
    return f"{fitting} {what} are free, need {pod.num_gpu}"


def _share(milli: int) -> str:
    """In hundredths of a GPU, as harp.dev/gpu-share counts."""
    return f"{milli * 100 / WHOLE_MILLI:g}"
