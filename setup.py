"""Packaging lives in setup.cfg; this file is its conventional entry point."""

from setuptools import setup

setup()
