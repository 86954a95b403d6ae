"""The latent explorer: a run's encoder, decoder and imagination, to touch in a browser."""
