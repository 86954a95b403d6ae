"""Fuzzing of everything that is read: a slice in ``make test``, 160 times as much in ``make fuzz``.

Every input is judged by the same rule: what is refused is refused by the documented error, in one
line; what is accepted is right; nothing is left outside of its folder, and no code of the input's
is run.
"""
