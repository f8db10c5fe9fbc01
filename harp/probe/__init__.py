# SPDX-License-Identifier: Apache-2.0
"""What a driver really does: `harp doctor --probe`. Its modules are imported one by one."""
