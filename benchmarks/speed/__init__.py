"""Speed and memory, each script beside the implementation that it is compared with."""
