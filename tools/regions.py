"""Measure a run's maps in anatomical regions; see `python tools/regions.py --help`."""

from cfxai.cli.regions import regions

if __name__ == "__main__":
    regions()
