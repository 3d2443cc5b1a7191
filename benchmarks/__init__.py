"""Questions about speed, one file each, answered as ratios of things measured side by side in one run."""
