"""Explain images with a run; see `python tools/explain.py --help`."""

from cfxai.cli.explain import explain

if __name__ == "__main__":
    explain()
