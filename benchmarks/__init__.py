"""Speed and memory: each script prints a table and writes JSON with the machine's description."""
