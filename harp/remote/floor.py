# SPDX-License-Identifier: Apache-2.0
"""TLS 1.3 and nothing below.

grpcio lets nobody set the lowest version (1.85); its default is 1.2. What it does let one set is
the list of ciphers, which counts for 1.2 only. HARP's certificates hold elliptic-curve keys, so
with a list of ciphers for RSA keys a handshake of 1.2 finds none that fits, and ends. grpcio reads
the list once, when it is imported.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from collections.abc import Set as AbstractSet

from harp.errors import ConfigError

__all__ = ["CIPHERS", "tls13_only"]

CIPHERS = ("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES128-GCM-SHA256")


def tls13_only(env: MutableMapping[str, str], modules: AbstractSet[str]) -> None:
    """Set it for this process and its children.

    Args:
        env: os.environ.
        modules: names of what is imported so far.

    Raises:
        ConfigError: too late: grpcio was imported with another list.
    """
    name, value = CIPHERS
    if env.get(name) == value:
        return
    if "grpc" in modules:
        raise ConfigError(
            "grpcio was imported before harp.remote.floor.tls13_only(): it would speak TLS 1.2",
            f"call it first, or start the program with {name}={value}",
        )
    env[name] = value
