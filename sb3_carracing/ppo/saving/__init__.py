"""Agents as files: written without pickle, and read without running what a file says."""
