"""SAM as a torch optimizer, and the monitor that tells whether a training run is stuck."""
