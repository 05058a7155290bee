"""Measure what this machine can resolve, and advise what would make its timings steadier.

Public: `doctor.examine` (time and diagnose), `text.doctor_text` (print the diagnosis), `probe` (a worker whose network
has a planted slowdown). `advice` holds pure rules on host facts.
"""
