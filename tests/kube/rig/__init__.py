# SPDX-License-Identifier: Apache-2.0
"""A real Kubernetes 1.20 on this machine, in network and mount namespaces of its own."""
