# SPDX-License-Identifier: Apache-2.0
"""`python -m harp.softgpu`."""

from __future__ import annotations

import sys

from harp.softgpu.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
