"""Toys: a user's own component of each kind, one file each, as outside the package."""
