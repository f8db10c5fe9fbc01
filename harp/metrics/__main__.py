# SPDX-License-Identifier: Apache-2.0
"""`python -m harp.metrics [dashboard]` prints the table of all series, or Grafana's dashboard."""

from __future__ import annotations

import sys

from harp.metrics.dashboard import dashboard
from harp.metrics.series import table

if __name__ == "__main__":
    sys.stdout.write(dashboard() if sys.argv[1:] == ["dashboard"] else table())
