# SPDX-License-Identifier: Apache-2.0
"""What the control API answers of jobs to come and of runs that have ended.

Whose, by the uid that the kernel says of the caller: a job is asked about as the caller's own, and
answered from the caller's runs and from what all share: the program within an image, the image, the
framework, the machine. A tenant is asked about by its owner, runs are shown to who had them. What a
pod's maker needed is told to root and to harpd's own user. Root may all of it, and harpd's own user
may see and add runs, which are its files.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import Protocol

from harp.api.jobs import job_message, need_message, run_message, run_of
from harp.api.v1 import control_pb2 as pb
from harp.daemon.advice import Advice
from harp.daemon.book import Book
from harp.daemon.owners import check_owner
from harp.daemon.recorder import owner_of
from harp.errors import ConfigError, HistoryError, NotOwner, UnknownTenant
from harp.estimator.job import Job, Run
from harp.estimator.signature import job_of
from harp.grants import select
from harp.model import Device, Tenant
from harp.units import PPM

__all__ = ["Estimates", "Runs"]

_PAGE = 1000
#: a command of more words is nobody's
_WORDS_MAX = 65_536


class Runs(Protocol):
    """History, as far as it is needed here."""

    def runs(self, since_number: int = 0) -> Iterable[Run]:
        """Those with larger numbers, in their order."""
        ...

    def latest(self, limit: int, user: str = "") -> list[Run]:
        """The last ones, newest first; of one user, or of all."""
        ...

    def kernels_of(self, job: Job) -> tuple[tuple[str, int, float], ...]:
        """What the last such job launched; empty: not known."""
        ...

    async def add_unknown(self, runs: Iterable[Run], learn: Callable[[Run], None]) -> None:
        """Keep those that are not there; `learn` is told of each, with its number."""
        ...


class Estimates:
    """Answers of one daemon.

    Args:
        advice: what it knows.
        book: its tenants and devices.
        history: its runs.
        digest_of: {uid: the user as history knows them}.
        job_of_tenant: of a living one; None: not known.
    """

    def __init__(
        self,
        advice: Advice,
        book: Book,
        history: Runs,
        *,
        digest_of: Callable[[int], str],
        job_of_tenant: Callable[[Tenant], Job | None],
    ) -> None:
        self._advice = advice
        self._book = book
        self._history = history
        self._digest_of = digest_of
        self._job_of_tenant = job_of_tenant

    def _kernels(self, job: Job) -> list[str]:
        try:
            kernels = self._history.kernels_of(job) if job.program else ()
        except HistoryError:
            return []  # what is kept of it is said elsewhere
        all_s = sum(seconds for _, _, seconds in kernels)
        if not all_s:
            return []
        told = (f"{name} {s / all_s:.0%} in {n} launches" for name, n, s in kernels)
        return [f"its last run's kernels, of {all_s:.3g} s: {', '.join(told)}"]

    async def estimate(self, request: pb.EstimateRequest, uid: int) -> pb.EstimateReply:
        """What a job will need.

        Raises:
            UnknownTenant, NotOwner, NoDevice, ConfigError.
        """
        ended = None
        if request.tenant:
            job, ended = self._of_tenant(request.tenant, uid)
        else:
            job = self.told(request, uid)
        reply = pb.EstimateReply(
            needs=[need_message(need) for need in self._advice.ask(job)],
            job=job_message(job),
            runs=self._advice.runs,
            state=self._advice.state,
        )
        if request.explain:
            reply.explained.extend(self._advice.explain(job))
            reply.explained.extend(await asyncio.to_thread(self._kernels, job))
        if ended is not None:
            reply.ended.CopyFrom(run_message(ended))
        return reply

    def page(self, request: pb.GetRunsRequest, uid: int) -> pb.GetRunsReply:
        """Runs that have ended."""
        limit = min(request.limit or _PAGE, _PAGE)
        user = "" if uid in (0, os.geteuid()) else self._digest_of(uid)
        if request.newest:
            found = self._history.latest(limit, user)
            return pb.GetRunsReply(runs=[run_message(run) for run in found])
        reply = pb.GetRunsReply(next=request.after)
        for looked, run in enumerate(self._history.runs(request.after)):
            if looked == _PAGE or len(reply.runs) == limit:
                reply.more = True
                break
            reply.next = run.number
            if not user or run.job.user == user:
                reply.runs.append(run_message(run))
        return reply

    async def add(self, request: pb.AddRunsRequest, uid: int) -> pb.AddRunsReply:
        """Runs of another machine, but those that are here already.

        Raises:
            NotOwner, ConfigError.
        """
        if uid not in (0, os.geteuid()):
            raise NotOwner(
                f"uid {uid} may not add to the history of harpd, which uid {os.geteuid()} keeps",
                "ask that user or root: what is added changes the estimates of all",
            )
        runs = [run_of(one) for one in request.runs]  # all of them are good, or none is added
        added: list[int] = []

        def learn(run: Run) -> None:
            self._advice.learn(run)
            added.append(run.number)

        await self._history.add_unknown(runs, learn)
        return pb.AddRunsReply(added=len(added))

    def _of_tenant(self, name: str, uid: int) -> tuple[Job, Run | None]:
        living = [t for t in self._book.tenants.values() if t.name == name]
        if living:
            check_owner(living[0], uid)
            job = self._job_of_tenant(living[0])
            if job is None:
                raise ConfigError(
                    f"what tenant {name} runs is not known: it is older than this harpd",
                    "ask by its command: harp estimate --command LINE",
                )
            return job, None
        ended = self._advice.ended(name)
        if ended is None:
            known = ", ".join(sorted(t.name for t in self._book.tenants.values()))
            raise UnknownTenant(
                f"no tenant {name!r} runs, and none has ended under this harpd",
                f"there is {known or 'none'}; or by its command: harp estimate --command LINE",
            )
        if uid not in (0, ended.uid):
            raise NotOwner(f"tenant {name} was uid {ended.uid}'s, not uid {uid}'s")
        return ended.run.job, ended.run

    def told(self, request: pb.EstimateRequest, uid: int) -> Job:
        """The job that a request tells of.

        Raises:
            NotOwner, NoDevice, ConfigError.
        """
        whose = request.for_uid if request.HasField("for_uid") else uid
        if uid not in (0, whose):
            raise NotOwner(
                f"uid {uid} asks as uid {whose}, which only root may", "leave --user out"
            )
        if len(request.command) > _WORDS_MAX:
            raise ConfigError(f"a command of {len(request.command)} words, {_WORDS_MAX} at most")
        if request.share_ppm > PPM:
            raise ConfigError(f"a share of {request.share_ppm} ppm is above 100%")
        owner = request.owner or owner_of(request.labels)
        if owner and uid not in (0, os.geteuid()):
            raise NotOwner(
                f"uid {uid} asks what pods of {owner} need, which root and uid {os.geteuid()} may",
                "ask by its --command, --image or --framework: these are shared",
            )
        if not (request.command or request.image or owner or request.framework):
            raise ConfigError(
                "nothing is said of the job", "give its command, image, owner or framework"
            )
        device = self._device(request.gpu)
        return job_of(
            list(request.command),
            image=request.image,
            # History knows a pod by its maker: its processes are of any user.
            user="" if owner and whose == uid else self._digest_of(whose),
            framework=request.framework,
            owner=owner,
            gpu=device.name if device else "",
            asked_mem_bytes=request.mem_bytes,
            asked_share_ratio=request.share_ppm / PPM,
            device_mem_bytes=device.memory_bytes if device else 0,
            labels=sorted(request.labels.items()),
        )

    def _device(self, selectors: str) -> Device | None:
        devices = list(self._book.devices.values())
        if selectors:
            return select(devices, selectors)[0]
        return devices[0] if devices else None
