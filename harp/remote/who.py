# SPDX-License-Identifier: Apache-2.0
"""A client whose certificate is renewed while it runs."""

from __future__ import annotations

from collections.abc import Callable

import grpc.aio
import structlog

from harp.errors import HarpError
from harp.remote.trust import Identity, channel

__all__ = ["Who"]

_log = structlog.get_logger(__name__)


class Who:
    """A client whose certificate is renewed in its place, as a Secret's files are.

    Args:
        load: reads what is there now; None: plaintext.

    Raises:
        HarpError: as `load`, the first time.
    """

    def __init__(self, load: Callable[[], Identity] | None) -> None:
        self._load = load
        self._now = load() if load is not None else None

    @property
    def stamp(self) -> bytes:
        """Another one whenever the certificate is."""
        return self._now.chain_pem + self._now.authority_pem if self._now is not None else b""

    def look(self) -> None:
        """Take what is there now; what cannot be used is not taken."""
        if self._load is None:
            return
        before = self.stamp
        try:
            self._now = self._load()
        except HarpError as error:
            _log.warning("certificate_not_read", reason=error.message)
            return
        if self.stamp != before:
            _log.info("certificate_renewed", ends=self._now.certificate.ends.isoformat())

    def connect(self, endpoint: str) -> grpc.aio.Channel:
        """A connection, as who we are now."""
        return channel(endpoint, self._now, insecure=self._now is None)
