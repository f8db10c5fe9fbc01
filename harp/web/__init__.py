# SPDX-License-Identifier: Apache-2.0
"""The read-only web page of harpd: who has the GPUs now, and had them in the last minutes."""

from __future__ import annotations

from harp.web.door import Door, open_door
from harp.web.feed import Feed
from harp.web.site import Site

__all__ = ["Door", "Feed", "Site", "open_door"]
