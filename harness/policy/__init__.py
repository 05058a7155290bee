"""The gate's rules and the earlier run that they are applied to.

`rules.policy` (layers of rules to tolerances and the outcomes that fail a build), `baseline.Baseline` (an earlier run).
"""
