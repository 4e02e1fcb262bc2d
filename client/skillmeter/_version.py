"""The version of the distribution, for the build and for `skillmeter --version`."""

__version__ = "0.1.0"
