"""The record of a cell, run files, what differs between two records, and the identity of a machine."""
