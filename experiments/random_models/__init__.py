"""Random small models, trained under every mechanism and on every engine."""
