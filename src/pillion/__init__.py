"""Pillion: a distributed application runtime, compatible with Dapr 1.18 on the wire and in its YAML."""

__version__ = "0.1.0"
REFERENCE_VERSION = "1.18.3"
"""The version of the reference runtime whose contract this one keeps; reported as `runtimeVersion`."""
