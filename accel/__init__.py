"""What makes updates fast without changing what they compute."""
