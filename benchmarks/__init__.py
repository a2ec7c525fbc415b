"""Speed and memory, as ratios against the peer or a limit measured in the same run."""
