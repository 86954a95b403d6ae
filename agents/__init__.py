"""Who acts and learns: the contract, its registry, and DisWM with DreamerV2."""
