# SPDX-License-Identifier: Apache-2.0
"""A client, as it is known to nodes by now."""

from __future__ import annotations

from collections.abc import Callable

import grpc.aio

from harp.remote.renewing import Renewing
from harp.remote.trust import Identity, channel

__all__ = ["Who"]


class Who:
    """A client whose certificate is renewed in its place, as a Secret's files are.

    Args:
        load: reads what is there now; None: plaintext, or a lease's token.
        name: what nodes' certificates are for; "": each one's host.
        say: hears what cannot be used.
        authority_pem: whom to trust without a certificate.

    Raises:
        HarpError: as `load`, the first time.
    """

    def __init__(
        self,
        load: Callable[[], Identity] | None,
        name: str,
        say: Callable[[str], None],
        authority_pem: bytes = b"",
    ) -> None:
        self.name = name
        self._mine = Renewing(load, say) if load is not None else None
        self._authority_pem = authority_pem

    @property
    def identity(self) -> Identity | None:
        """The one of now; None: no certificate is shown."""
        return self._mine.now if self._mine is not None else None

    @property
    def stamp(self) -> bytes:
        """Another one whenever the certificate is."""
        return self._mine.stamp if self._mine is not None else b""

    def look(self) -> bool:
        """Take what is there now; whether that is another one."""
        return self._mine is not None and self._mine.look()

    def connect(self, endpoint: str) -> grpc.aio.Channel:
        """A connection, as who we are now."""
        insecure = self._mine is None and not self._authority_pem
        return channel(
            endpoint, self.identity, self._authority_pem, name=self.name, insecure=insecure
        )
