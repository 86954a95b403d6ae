"""Fuzzing of everything that is read: ``python -m tests.fuzz --help``.

Every input is judged by the same rule: what is refused is refused by the documented error, in one
line; what is accepted is right; nothing hangs, nothing takes the machine's memory, nothing is
written outside of its folder, and no code of the input's is run.
"""
