"""Turn cells into a graph of steps, and build the artefacts that the store lacks.

`plan.make` (cells to steps and keys), `estimate.DurationEstimate` (how long), `executor.Executor` (builds), `training`
(the training loop), `artefact` (a model as a file).
"""
