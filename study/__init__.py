"""Many runs: figures and tables of the paper as lists of command lines, and what runs them."""
