# SPDX-License-Identifier: Apache-2.0
"""The estimator judged: recorded tables walked through in time."""
