"""Measure deployed files in worker processes.

Public: `latency.LatencyTimer` (the latency of a cell), `pool.Workers` (time, run and measure the memory of a file),
`machine.facts` and `machine.load` (host facts), `noise.noise_signals` (signs of a disturbed machine).

A timing passes `pool` -> `process` (the controller's side) -> `worker` -> `timing` (inside the worker process);
`profile` resolves the worker's environment and `environment` verifies it.
"""
