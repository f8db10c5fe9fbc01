# SPDX-License-Identifier: Apache-2.0
"""`python -m harp.metrics` prints the table of all series."""

from __future__ import annotations

import sys

from harp.metrics.series import table

if __name__ == "__main__":
    sys.stdout.write(table())
