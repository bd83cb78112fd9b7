"""The fast parts of the environment: car physics, track and drawing."""
