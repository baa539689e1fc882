"""The version, where a checkout that is not installed finds it too."""

VERSION = "0.1.0"
