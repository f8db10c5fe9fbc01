# SPDX-License-Identifier: Apache-2.0
"""Who is like a job: the keys that its history is looked up by, the most alike first. Pure."""

from __future__ import annotations

from harp.estimator.estimate import Key
from harp.estimator.job import Job

__all__ = ["SIMILAR", "keys", "on_device"]

#: kinds of key whose runs are of one program, or of pods made from one template: as good as the
#: job's own. Others say what jobs need, not what this one does
SIMILAR = frozenset({"signature", "program", "shape", "owner"})


def keys(job: Job) -> list[Key]:
    """Its keys, the most alike first; the first is its own. One with an empty part is left out.

    The order is that of research/estimator.md, section 4, with two more: `shape`, the same command
    but for its numbers, and `owner`, what made a pod. The same words are the same program within an
    image or of one user: two users' train.py have but the name in common.
    """
    every: tuple[tuple[str, ...], ...] = (
        ("signature", job.program, job.user),
        ("program", job.program, job.image),
        ("shape", job.shape, job.user),
        ("owner", job.owner),
        ("user", job.user, job.image),
        ("image", job.image),
        ("framework", job.framework),
        ("cluster",),
    )
    return [key for key in every if all(key)]


def on_device(key: Key, job: Job) -> Key:
    """The same for what depends on how fast a device is; one without a name is one of its own.

    How long a job runs and what share of a GPU it uses says little of it on another GPU.
    """
    return (*key, job.gpu)
