"""Toys: a user's own thing of each kind, one file each, as it would stand outside the package."""
