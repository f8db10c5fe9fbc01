# SPDX-License-Identifier: Apache-2.0
"""What a job will need: history, calibrated and explained."""

from harp.estimator.estimate import Estimate, Estimator, Key
from harp.estimator.rules import RULES, Rule

__all__ = ["RULES", "Estimate", "Estimator", "Key", "Rule"]
