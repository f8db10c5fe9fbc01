# SPDX-License-Identifier: Apache-2.0
"""GPUs for programs elsewhere: leases on them, who may have them, and which node to ask."""
