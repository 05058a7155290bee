"""Declare suites and expand them into cells.

Public: `matrix.Matrix` and `matrix.Skip` (what a suite declares), `matrix.Cell` (one point of a matrix),
`presets.preset` (the size of a run), `collect.load` (the matrices of a suite file), `collect.cells_of` (the cells of a
matrix on this machine).
"""
