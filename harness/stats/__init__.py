"""Pure functions on arrays.

- `ratios`: ratios of paired timings with intervals, minimum detectable effects, percentiles
- `verdict`: verdicts on ratios at a margin, with false discoveries controlled
- `quality`: quality metrics under many weightings, and their bootstrap over patients
- `changepoints`: changes of level in a series of runs
"""
