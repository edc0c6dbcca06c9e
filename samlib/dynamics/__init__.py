"""SAM's update rules, the SAM map, trajectories and basins of attraction."""
