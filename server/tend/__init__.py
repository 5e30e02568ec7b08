"""Tending a journal from the command line: `edgewise sessions`, `edgewise db`, `edgewise migrate`."""
