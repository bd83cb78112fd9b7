"""A report of runs as one HTML file that needs no network: summary, curves, evaluation, maps and replays of the tracks."""
