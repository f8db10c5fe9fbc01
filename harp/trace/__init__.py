# SPDX-License-Identifier: Apache-2.0
"""Traces of driver calls: what libharp records. native/src/trace has the format."""
